"""The networks of both stages.

Letters of shapes, everywhere: b images, n patches (144), k kept tokens, d channels, c colours, h w rows and columns,
p patch size, l landmarks.
"""
