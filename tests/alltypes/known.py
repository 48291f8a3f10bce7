"""Which types are cut, which are not and why, and where the stock model itself does not do what a law asks."""

CROSS = "images reach the text through cross-attention layers, not as tokens of the prompt"
SEQ2SEQ = "an encoder-decoder: images go into its encoder"
NO_SEAM = "its forward pass has no seam between images and decoder: they are not put in the place of one placeholder"
UNSUPPORTED = {
    "blip": CROSS,
    "blip-2": "its `generate` calls the language model past the model that knows where images are: refused there",
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

STOCK = {
    "fuyu": {"beams": "the stock model repeats prompts for beams but not their pictures"},
    "gemma3n": {"beams": "stock beam search indexes its per-layer embeddings out of range"},
    "granite_docling": {"beams": "the stock model repeats prompts for beams but not their pictures"},
    "llama4": {
        "beams": "the stock model repeats prompts for beams but not their pictures",
        "batch": "without rotation its queries are scaled by places that count padding",
        "runs": "the stock model of 5.24 reads `image_outputs`, which its output lacks; the tests add it",
    },
    "hunyuan_vl": {"batch": "its positions along several axes count padding"},
    "minicpmv4_6": {"batch": "its linear attention does not leave padding out"},
    "minicpmv4_7": {"batch": "its linear attention does not leave padding out"},
}
"""Type -> law -> what the stock model does there, without Foveate: `test_stock_faults_are_the_stock_models`."""

SAMPLE = (
    "aria", "gemma3", "gemma4", "glm4v", "granite4_vision", "idefics3", "lfm2_vl", "mistral3", "qwen3_5",
    "qwen3_vl_moe",
)  # fmt: skip
"""Ten unlike types for `make test`; `make test-zoo` takes all."""
