"""Where a node publishes and where it is asked, if nobody says otherwise."""

MASKS_ENDPOINT = "tcp://127.0.0.1:5601"
CONTROL_ENDPOINT = "tcp://127.0.0.1:5602"
