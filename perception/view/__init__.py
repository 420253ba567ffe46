"""The live view: a subscriber that shows a node's masks in a browser, and to Foxglove.

It is a process of its own, so that it can never slow a node. A feed subscribes and puts messages of one frame
together, packets turn them into bytes that the page reads, a session talks to one browser, and the server says who
may come in.
"""
