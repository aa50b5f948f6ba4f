# divdet serve on a CPU; docs/serving.md says how to build and run it.
FROM python:3.12-slim

# torch's own index has wheels without CUDA, which are a tenth of the size
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu

WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY classification classification
COPY configs configs
COPY detection detection
COPY divdet divdet
RUN pip install --no-cache-dir '.[serve]'

RUN useradd --create-home divdet
USER divdet
WORKDIR /home/divdet
# Compiled loops are kept there; they depend on the processor, and therefore on the machine that runs the image
ENV NUMBA_CACHE_DIR=/tmp/numba

EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["divdet", "serve", "--host=0.0.0.0", "--port=8000"]
CMD ["--checkpoint=/models/best.pt"]
