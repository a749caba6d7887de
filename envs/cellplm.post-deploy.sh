#!/bin/sh
# What cellplm asks for besides is not needed for embeddings: scIB, OpenCV and a compiler among it.
python -m pip install --no-deps cellplm==0.1.0.post2
