# The demo on the CPU:   docker build -t web-cosegmentation . && docker run -it web-cosegmentation
# For NVIDIA's GPUs:     docker build --build-arg DEPENDENCIES=dependencies-gpu.txt -t web-cosegmentation . and
#                        docker run --gpus all -it web-cosegmentation bash
FROM debian:13-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv libgomp1 libquadmath0 \
        ca-certificates \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /project
ARG DEPENDENCIES=dependencies.txt
ENV DEPENDENCIES=$DEPENDENCIES
COPY environment.sh dependencies*.txt ./
RUN bash -c '. ./environment.sh; make_environment "$DEPENDENCIES"'
ENV PATH=/project/.venv/bin:$PATH
COPY . .
CMD ["bash", "demo/run.sh"]
