"""All members over a slide: tiles stream through, outlines and low-power maps come out."""
