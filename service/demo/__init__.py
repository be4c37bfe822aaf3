"""The demo: a hospital's fortnight through the real service, in half a minute.

Takes nothing; gives a service that listens on the loopback, has been sent 40,000 dictations and
has told the demo's own webhook receiver what it found. Promises to leave nothing behind: state
lives in a temporary directory, and the service ends with the demo.
"""
