"""Model types of transformers that are not cut, each with its reason, and faults of stock models that users meet."""

CROSS = "images reach the text through cross-attention layers, not as tokens of the prompt"
SEQ2SEQ = "an encoder-decoder: images go into its encoder"
NO_SEAM = "images are not put in the place of one placeholder, or there is no seam between them and a decoder"
UNSUPPORTED = {
    "blip": CROSS,
    "blip-2": "it generates with its language model alone, past the model that knows where images are",
    "diffusion_gemma": "it writes its answer by diffusion over the whole text, so there is no prefill to cut",
    "evolla": CROSS,
    "florence2": SEQ2SEQ,
    "git": NO_SEAM,
    "idefics": CROSS,
    "instructblip": "as blip-2",
    "instructblipvideo": "as blip-2",
    "kosmos-2": NO_SEAM,
    "kosmos-2.5": NO_SEAM,
    "mistral4": "text only: transformers lists it for the models that contain it",
    "mllama": CROSS,
    "pi0": NO_SEAM,
    "pix2struct": SEQ2SEQ,
    "pp_formulanet": SEQ2SEQ,
    "t5gemma2": SEQ2SEQ,
    "udop": SEQ2SEQ,
    "unlimited_ocr": "it keeps a cache of its own kind",
    "vision-encoder-decoder": SEQ2SEQ,
}
"""Type -> why it is not cut."""

FAULTS = {
    "fuyu": {"beams": "the stock model repeats prompts for beams but not their pictures"},
    "gemma3n": {"beams": "stock beam search indexes its per-layer embeddings out of range"},
    "granite_docling": {"beams": "the stock model repeats prompts for beams but not their pictures"},
    "llama4": {
        "beams": "the stock model repeats prompts for beams but not their pictures",
        "batch": "without rotation its queries are scaled by places that count padding",
        "forward": "the stock model of 5.24 reads `image_outputs`, which its own output lacks",
    },
    "hunyuan_vl": {"batch": "its positions along several axes count padding"},
    "minicpmv4_6": {"batch": "its linear attention does not leave padding out"},
    "minicpmv4_7": {"batch": "its linear attention does not leave padding out"},
}
"""Type -> what -> how the stock model fails there, without Foveate. Shown by `make test-zoo`."""
