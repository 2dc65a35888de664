"""The method, one package per part of the paper.

    web              collect web images and clean them
    cosegmentation   masks for the web images, learned from no mask
    dataset          images and image-level labels, of VOC and SBD or of the user's own
    network          the networks, as lists of operations, and their parameter files
    engines          MXNet and torch, which carry the operations out
    training         train the init and the final model
    inference        segment with a trained model; masks for the training images
    evaluation       mean IoU, rankings, reports
    annotation       people: review web masks, take masks to other tools and back

Imports point down only: errors, classes < io < paths < config < data < runtime < web, dataset, network < engines
< training, inference < cosegmentation, evaluation, annotation, cli < scripts.
"""
