"""Draw the objects they are given; decide nothing.

Every widget is a mime bundle with two forms that say the same: the live one, for a front end with a kernel
behind it, and a static one (HTML with its pictures inside, and plain text) for the rendered book and for a
run without a browser.
"""
