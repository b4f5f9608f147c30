"""Made-up H&E slides with the truth about them: tissue, stain, scanner, file."""
