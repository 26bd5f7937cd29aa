#!/bin/sh
# Make labs/lab03-images/images.tar.gz: images of which Podman and Docker say themselves what is in them.
#
# sh make_lab03_images.sh EMPTY-DIRECTORY, as root, with podman, skopeo, busybox-static and a Docker Engine
# (DOCKER_HOST). It leaves images.tar.gz there, and prints the names under which Docker keeps its layers.
#
#   images/        one OCI layout: shop:1, shop:2 and the multi-platform tool:1 by Podman; till:1 by Docker
#   exported/*.tar what `podman export` and `docker export` say is in the finished images
set -eu
cd "$1"
mkdir -p base/bin base/etc base/mnt base/srv base/var/cache/pages base/usr/lib tools exported
cp "$(command -v busybox)" tools/

# What the first layer holds. /mnt is where the tools appear while the other layers are made.
echo 'welcome to the shop' > base/etc/motd
echo 'currency = EUR' > base/etc/shop.conf
echo 'root:x:0:0:root:/root:/bin/sh' > base/etc/passwd
printf '#!/bin/sh\necho open\n' > base/bin/shop
echo 'libshop 1' > base/usr/lib/libshop.so.1
ln -s libshop.so.1 base/usr/lib/libshop.so
ln -s /usr/lib base/lib
for page in home basket till; do echo "$page" > "base/var/cache/pages/$page"; done
echo 'a page' > base/srv/page
chmod 755 base/bin/shop
chown -R 0:0 base

# Podman: each RUN is a layer. Times are the same whenever this runs.
podman() { command podman --root "$PWD/store" --runroot "$PWD/run" --storage-driver overlay --cgroup-manager cgroupfs "$@"; }
build() { podman build --quiet --isolation chroot --network host --timestamp 1700000000 --volume "$PWD/tools:/mnt:ro" "$@"; }
cat > shop-1 <<'EOF'
FROM scratch
COPY base /
RUN ["/mnt/busybox", "sh", "-c", "cd /mnt; ./busybox rm /etc/motd; ./busybox chmod 600 /etc/shop.conf; ./busybox ln /bin/shop /bin/till"]
RUN ["/mnt/busybox", "sh", "-c", "cd /mnt; ./busybox rm -r /var/cache/pages; ./busybox mkdir /var/cache/pages; echo new > /var/cache/pages/news"]
CMD ["/bin/shop"]
EOF
cat > shop-2 <<'EOF'
FROM localhost/shop:1
RUN ["/mnt/busybox", "sh", "-c", "cd /mnt; ./busybox rm /srv/page; ./busybox mkdir -p /srv/page/en; echo hello > /srv/page/en/index; ./busybox chown -R 33:33 /srv/page"]
RUN ["/mnt/busybox", "sh", "-c", "cd /mnt; ./busybox rm -r /usr/lib; echo 'currency = USD' > /etc/shop.conf; ./busybox ln -s /bin/shop /usr/lib"]
EOF
build --file shop-1 --tag localhost/shop:1 .
build --file shop-2 --tag localhost/shop:2 .
for architecture in amd64 arm64; do
    mkdir "$architecture"
    echo "a tool for $architecture" > "$architecture/tool"
    printf 'FROM scratch\nCOPY %s /\n' "$architecture" > tool
    build --platform "linux/$architecture" --file tool --manifest localhost/tool:1 .
done
for version in 1 2; do
    podman push --quiet "localhost/shop:$version" "oci:images:shop:$version"
    container=$(podman create "localhost/shop:$version")
    podman export --output "exported/shop-$version.tar" "$container"
    podman rm "$container" > exported/removed
done
podman manifest push --all localhost/tool:1 oci:images:tool:1 > exported/removed

# Docker: each commit is a layer.
docker rmi --force till:0 till:1 > exported/removed 2>&1 || true
tar --create --directory base . | docker import - till:0 > exported/removed
change() {
    docker run --name till --network none --volume "$PWD/tools:/mnt:ro" "$1" /mnt/busybox sh -c "cd /mnt; $3"
    docker commit till "$2" > exported/removed
    docker rm till > exported/removed
}
change till:0 till:1 './busybox rm -r /var/cache; ./busybox mkdir -p /var/cache; echo 42 > /var/cache/sum; ./busybox rm /lib'
change till:1 till:1 './busybox rm /etc/shop.conf /bin/shop; ./busybox mkdir /bin/shop; ./busybox ln /etc/passwd /bin/shop/who; ./busybox chmod 4755 /etc/passwd'
docker save --output till.tar till:1
skopeo copy --quiet docker-archive:till.tar:till:1 oci:images:till:1
docker create --name till till:1 /none > exported/removed
docker export --output exported/till-1.tar till
docker rm till > exported/removed
rm exported/removed
ls "$(docker info --format '{{.DockerRootDir}}')/image/overlay2/layerdb/sha256"

# What Docker shows in every container though no layer has it.
for added in .dockerenv dev proc sys run etc/hosts etc/hostname etc/resolv.conf etc/mtab; do
    tar --delete --file exported/till-1.tar "$added" 2> /dev/null || true
done
tar --create --gzip --sort=name --owner=0 --group=0 --numeric-owner --mtime=@1700000000 \
    --file images.tar.gz images exported
