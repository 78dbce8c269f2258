# PostgreSQL and Redis of Debian's packages, which get its security updates: the programs that `make stack-test` runs.
ARG DEBIAN_IMAGE=debian:12.12-slim

FROM ${DEBIAN_IMAGE} AS postgres
# The user before the package: its number must be the same in every image, because the volume keeps it.
RUN groupadd --gid 10002 postgres \
    && useradd --uid 10002 --gid 10002 --home-dir /srv/postgres --shell /bin/sh postgres \
    && apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-common \
    && sed --in-place 's/^#create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf \
    && apt-get install --yes --no-install-recommends postgresql-15 \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=10002 --group=10002 --mode=0700 /srv/postgres
COPY deploy/postgres-start /opt/syncrec/deploy/
USER 10002:10002
HEALTHCHECK NONE

FROM ${DEBIAN_IMAGE} AS redis
RUN groupadd --gid 10003 redis \
    && useradd --uid 10003 --gid 10003 --home-dir /srv/redis --shell /usr/sbin/nologin redis \
    && apt-get update \
    && apt-get install --yes --no-install-recommends redis-server redis-tools \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=10003 --group=10003 --mode=0700 /srv/redis
COPY deploy/redis-start /opt/syncrec/deploy/
USER 10003:10003
HEALTHCHECK NONE
