"""Evidence: what a person sees, as pages that need no script, and the figures behind an alert.

Takes what the API answers and views of the running state; gives HTML with drawings in SVG, and the
same figures as JSON. Promises that a page asks nothing of any other server, shows names literally,
and is there while the engine starts, without what only the engine knows.
"""
