"""A release: images, chart and plugin, named by digest, signed, with a list of what each image consists of.

`make release` runs all of it from a checkout. The workflow of a tag builds and signs with its own means, and
asks this package for the chart, the plugin and the notes.
"""
