"""What computes the networks: an engine is a package, `mxnet` or `torch`, and a third one would have the same modules.

    backend      the one module that imports the library: its devices, and the number formats that they compute in
    operations   what the networks of core/network consist of: SymbolOperations, TorchOperations
    network      Network: a forward pass without batch norms, for inference
    steps        Steps: forward pass, losses, gradients and update; batch_statistics

`chooser` decides which one computes, and is the only one that imports it; the rest of core calls `chooser.load`, and
`network.Network`. `fcn` builds a network from the operations that an object carries out on its maps, which can be added
up: those of `mxnet.operations.SymbolOperations`. `core.inference.onnx_export` writes them as nodes of a graph.
"""
