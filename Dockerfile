# The project in one image. A recipe: nobody publishes the image.
#   docker build -t flag-st .
#   docker run --rm --gpus all -v "$PWD:/work" flag-st --cores 8 --resources gpu=1
# Results, .snakemake and what is downloaded come to the folder mounted at /work.
FROM python:3.11-slim-bookworm
COPY . /opt/flag-st
RUN pip install --no-cache-dir -c /opt/flag-st/constraints.txt -e /opt/flag-st
ENV HOME=/work PYTHONDONTWRITEBYTECODE=1
WORKDIR /work
ENTRYPOINT ["snakemake", "--snakefile", "/opt/flag-st/Snakefile"]
