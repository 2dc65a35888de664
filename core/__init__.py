"""What the scripts at the top of the project share.

Arrows point down only:

    stages   fetch, cosegment, dataset, train, evaluate, estimate, segment (pictures of the user's own)
    parts    download, near_duplicates, web_sources (of fetch), regions, saliency, cues, descriptors, self_training,
             graphcut, model_files (of cosegment), network, snapshots, resume, samples, inference, predictions, media,
             crf, mean_field, permutohedral (of crf), metrics, base_models, submission, reports (pages, curves),
             onnx_export
    base     config, classes, files, logs, errors, compilation, backend (the one module that imports mxnet)
"""
import importlib.util
import sys

if None in map(importlib.util.find_spec, ("cv2", "numba", "numpy", "PIL", "tqdm", "yaml")):
    print("%s: error: packages are missing: pip install -r dependencies.txt, or activate the environment that has them"
          % (sys.argv[0] or "python"), file=sys.stderr)
    sys.exit(2)
