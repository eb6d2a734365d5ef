"""sanflow: from photographs of good parts to a verified engine that judges every part on a line."""

import os
import sys
from typing import Any, cast

__version__ = "0.1.0"

# What a line makes is nobody else's business. ONNX Runtime reports its use to its maker, OpenVINO
# each import of it to Google, and both keep an identifier of the machine for that, unless this is
# done before they are imported. OpenVINO does without the package that it reports with.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
