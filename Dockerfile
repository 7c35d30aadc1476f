# The operator. The build context "wheels" is a folder with the project's wheel:
#   docker build --build-context wheels=dist .
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# Where the host says that packages come from; empty for the ordinary index.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

COPY requirements/operator.txt /opt/kvarn/requirements.txt
# The Kubernetes client has thousands of modules and the operator imports few: those alone are compiled.
RUN python3 -m venv /opt/kvarn \
 && cd /opt/kvarn \
 && bin/pip install --quiet --no-cache-dir --no-compile --no-deps --require-hashes -r requirements.txt \
 && bin/pip uninstall --quiet --yes setuptools \
 && bin/python -m compileall -q -x site-packages/kubernetes lib \
 && bin/python -c "import kubernetes.aio.client, kubernetes.aio.config"

# Last and thin, so that a change of code builds nothing else again.
COPY --from=wheels kvarn-*.whl /opt/kvarn/wheel/
RUN /opt/kvarn/bin/pip install --quiet --no-cache-dir --no-deps --no-index /opt/kvarn/wheel/*.whl

ENV PATH=/opt/kvarn/bin:/usr/bin:/bin HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["python3", "-m", "kvarn_operator"]
