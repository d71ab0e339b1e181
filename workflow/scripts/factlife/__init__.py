"""The life of a fact in a language model: taught, recalled, located, edited, traced and lost."""
