"""The web page of `ovdense demo`: drop a picture, type classes, see boxes, masks and heat maps.

A page of our own on Starlette and uvicorn: what it must do (limits before anything is decoded, one queue, nothing fetched from elsewhere) takes
a few hundred lines, where the usual toolkit would hold Pillow below 13 and bring thirty packages.
"""
