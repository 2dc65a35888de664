"""What the scripts at the top of the project share.

Arrows point down only:

    stages   cosegment, dataset, train, evaluate, estimate
    parts    regions, saliency, cues, descriptors, self_training, graphcut, network, snapshots, samples, inference, crf,
             metrics
    base     config, classes, files, logs, errors, backend (the one module that imports mxnet)
"""
