"""Labels of several people: fused, or made up by a robot rater."""
