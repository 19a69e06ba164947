"""Commands about weights: what there is, what is here, other forms, fewer bits."""
