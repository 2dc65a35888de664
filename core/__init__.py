"""The method, one package per part of the paper.

    web              collect web images and clean them
    cosegmentation   masks for the web images, learned from no mask
    dataset          images and image-level labels, of VOC and SBD or of the user's own
    network          the networks, for either engine, and their parameter files
    training         train the init and the final model
    inference        segment with a trained model; masks for the training images
    evaluation       mean IoU, rankings, reports
    annotation       people: review web masks, take masks to other tools and back

Imports point down only: errors, classes < io < config, paths < runtime < web, dataset, network < training, inference
< cosegmentation, evaluation, annotation < scripts.
"""
