"""What a reader says about the memory of their preferences."""

USUAL_STYLE = "my usual style"
NO_STYLE = "off"
STYLES = (USUAL_STYLE, NO_STYLE)
DEFAULT_PURPOSE = "diagnosis"
