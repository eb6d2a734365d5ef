"""sanflow: from photographs of good parts to a verified engine that judges every part on a line."""

import os

__version__ = "0.1.0"

# ONNX Runtime sends data on its use to its maker, and keeps a device identifier for that, unless
# this is set before it is first imported. What a line makes is nobody else's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
