"""TensorRT on the device: a plan is built here once, proven on the goldens, kept, and then run.

    messages   what NVIDIA's errors mean and what to do about each
    cuda       memory, streams and graphs behind one protocol: `cuda_python`, `pycuda`
    api        the import of tensorrt or tensorrt_rtx, and every difference between versions
    key        what a plan is valid for;  `cache`: where plans lie, and when one is trusted
    build      the child process that runs NVIDIA's builder: `child` is its inside
    plan       built, proven and kept;  `ladder`: asked precision first, what may step in after it
    slot       one execution context with its buffers;  `engine`: the engine contract over slots

TensorRT plans are bound to a version, a driver and a GPU, so none is ever shipped: a bundle holds
strongly typed ONNX graphs. Nothing here imports tensorrt or a CUDA package before one is opened.
"""
