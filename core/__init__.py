"""What the scripts at the top of the project share.

Arrows point down only:

    stages   dataset, train, evaluate, estimate, segment (pictures of the user's own)
    parts    network, snapshots, samples, inference, predictions, media, crf, metrics,
             submission, reports (pages, curves), onnx_export
    base     config, classes, files, logs, errors, backend (the one module that imports mxnet)
"""
