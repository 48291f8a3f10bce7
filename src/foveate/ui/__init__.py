"""A page to play on: what each method keeps and answers, what it costs in accuracy, a plan for one's own examples."""
