"""Points that people set in pictures of their own, in the file formats of labelling programs."""
