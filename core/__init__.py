"""What the scripts at the top of the project share.

Arrows point down only:

    stages   fetch, cosegment, evaluate_web, dataset, train, evaluate, estimate, segment (pictures of the user's own)
    parts    of fetch: web_sources, download, near_duplicates
             of cosegment: regions, saliency, graphcut, cues, descriptors, activations, self_training, class_check,
             model_files, contact_sheet, web_cache, crew (processes, or a Dask cluster)
             of dataset: own_images, sbd_masks
             of train: samples, resume, cluster (several machines)
             of all that predicts: inference, predictions, crf, results, reports (pages, curves, pictures), submission
             of all that has a network: network, snapshots, base_models (weight_files, torch_files), onnx_export
             small ones: metrics, interpolation, mean_field and permutohedral (of crf), params_files, media
    base     cli, config, classes, layout, files, logs, errors, parallel, cpus, gpu_libraries, compilation, backend (the
             one module that imports mxnet)
"""
import importlib.util
import sys

if None in map(importlib.util.find_spec, ("cv2", "numba", "numpy", "PIL", "tqdm", "yaml")):
    print("%s: error: packages are missing: pip install -r dependencies.txt, or activate the environment that has them"
          % (sys.argv[0] or "python"), file=sys.stderr)
    sys.exit(2)
