"""What students get wrong in lab 3, each as a change to the solution that loses the points of one check."""

from labs.mistakes import Mistake

MISTAKES = {
    "leaves the algorithm out of the digest": Mistake(
        task="add-blob",
        changes={'"digest": f"sha256:{name}"': '"digest": name'},
        loses="check-add-blob-descriptor",
        says="'digest': 'sha256:",
    ),
    "stores blobs beside the algorithm's directory": Mistake(
        task="add-blob",
        changes={'"blobs", "sha256", name': '"blobs", f"sha256:{name}"'},
        loses="check-add-blob-file",
        says="got {'blobs/sha256:",
    ),
    "believes the name of the file": Mistake(
        task="read-blob",
        changes={"if hashlib.sha256(data).hexdigest() != name:": "if False:"},
        loses="check-read-blob-refuses",
        says="got b'own me'",
    ),
    "returns text": Mistake(
        task="read-blob",
        changes={"return data": "return data.decode()"},
        loses="check-read-blob",
        says="return bytes",
    ),
    "asks a manifest for its platform": Mistake(
        task="find-manifest",
        changes={
            "== name\n": "== name and (entry['mediaType'].endswith('index.v1+json') or 'platform' in entry)\n"
        },
        loses="check-find-by-name",
        says="IndexError",
    ),
    "takes the first image of an index": Mistake(
        task="find-manifest",
        changes={'.get("architecture", architecture) == architecture': '.get("architecture")'},
        loses="check-find-by-platform",
        says="'architecture': 'amd64'",
    ),
    "takes the digest for the diff ID": Mistake(
        task="diff-id",
        changes={"data = gzip.decompress(data)": "pass"},
        loses="check-diff-id",
        says="look at config.md, 'Layer DiffID'",
    ),
    "chains without the space": Mistake(
        task="chain-ids",
        changes={"{chain[-1]} {diff_id}": "{chain[-1]}{diff_id}"},
        loses="check-chain-ids",
        says="look at config.md, 'Layer ChainID'",
    ),
    "lets dots lead out": Mistake(
        task="inside",
        changes={"del found[-1:]": "found.append(part)"},
        loses="check-inside-dots",
        says="got '/etc/shadow'",
    ),
    "follows absolute links to the host": Mistake(
        task="inside",
        changes={"found.clear()": "return os.path.join(target, *todo, last)"},
        loses="check-inside-links",
        says="got '/usr/lib/libshop.so.1'",
    ),
    "follows the last link too": Mistake(
        task="inside",
        changes={
            "os.path.join(rootfs, *found, last)": "os.path.realpath(os.path.join(rootfs, *found, last))"
        },
        loses="check-inside-last",
        says="got '/rootfs/usr/lib'",
    ),
    "follows links for ever": Mistake(
        task="inside",
        changes={"if links > 40:": "if False:"},
        loses="check-inside-loop",
        says="return within 10 s, got nothing",
    ),
    "leaves modes and owners as they come": Mistake(
        task="apply-layer",
        changes={"numeric_owner=True": "set_attrs=False"},
        loses="check-apply-files",
        says="-rw------- 33:33 'EUR'",
    ),
    "takes whiteouts for files": Mistake(
        task="apply-layer",
        changes={'remove(os.path.join(directory, name.removeprefix(".wh.")))': "pass"},
        loses="check-apply-whiteout",
        says="look at layer.md, 'Whiteouts'",
    ),
    "empties an opaque directory when it comes to it": Mistake(
        task="apply-layer",
        changes={
            'if os.path.basename(path).startswith(".wh."):\n            continue': """
        if os.path.basename(path) == ".wh..wh..opq":
            for other in os.listdir(os.path.dirname(path)):
                remove(os.path.join(os.path.dirname(path), other))
        if os.path.basename(path).startswith(".wh."):
            continue""".strip()
        },
        loses="check-apply-opaque",
        says="got ['var', 'var/cache']",
    ),
    "writes through links": Mistake(
        task="apply-layer",
        changes={
            "remove(path)\n        entry": "os.path.islink(path) or remove(path)\n        entry",
        },
        loses="check-apply-replaces",
        says="'a': \"'two'\"",
    ),
    "copies a hard link": Mistake(
        task="apply-layer",
        changes={
            "tar.extract(entry, rootfs, numeric_owner=True)": """
        if member.islnk():
            shutil.copy2(inside(rootfs, member.linkname), path)
            continue
        tar.extract(entry, rootfs, numeric_owner=True)""".strip()
        },
        loses="check-apply-hard-link",
        says="to be one file",
    ),
    "joins the root and the name": Mistake(
        task="apply-layer",
        changes={"path = inside(rootfs, member.name)": "path = os.path.join(rootfs, member.name)"},
        loses="check-apply-stays-inside",
        says="['../oops'] outside",
    ),
    "looks at the content only": Mistake(
        task="write-layer",
        changes={
            "before.get(name) != after[name]": "name not in before or before[name][-1] != after[name][-1]"
        },
        loses="check-layer-names",
        says="got ['etc/shop.conf']",
    ),
    "copies the whole tree": Mistake(
        task="write-layer",
        changes={"[name for name in after if before.get(name) != after[name]]": "list(after)"},
        is_alone=True,
        loses="check-layer-names",
        says="'etc/motd'",
    ),
    "says of every file that it is gone": Mistake(
        task="write-layer",
        changes={"name not in after and os.path.isdir(os.path.join(upper, above))": "name not in after"},
        loses="check-layer-whiteouts",
        says="'srv/a/.wh.b'",
    ),
    "writes the time of day": Mistake(
        task="write-layer",
        changes={'info.mtime, info.uname, info.gname = 0, "", ""': 'info.uname, info.gname = "", ""'},
        loses="check-layer-reproducible",
        says="the same bytes for the same trees",
    ),
    "takes files as the directory lists them": Mistake(
        task="write-layer",
        changes={"sorted(entries)": "entries"},
        loses="check-layer-reproducible",
        says="the same bytes for the same trees",
    ),
    "begins with the top layer": Mistake(
        task="unpack",
        changes={"for layer in layers:": "for layer in reversed(layers):"},
        loses="check-unpack",
        says="'layers' begins with the lowest",
    ),
    "checks the layers one by one": Mistake(
        task="unpack",
        instead="""
        manifest = json.loads(read_blob(layout, find_manifest(layout, name, architecture)))
        promised = json.loads(read_blob(layout, manifest["config"]))["rootfs"]["diff_ids"]
        for descriptor, wanted in zip(manifest["layers"], promised):
            read_blob(layout, descriptor)
            layer = os.path.join(layout, "blobs", *descriptor["digest"].split(":"))
            if diff_id(layer) != wanted:
                raise ValueError(wanted)
            apply_layer(rootfs, layer)
        """,
        loses="check-unpack-refuses",
        says="got ValueError",
    ),
    "believes the config": Mistake(
        task="unpack",
        changes={"if found != promised:": "if len(found) != len(promised):"},
        loses="check-unpack-refuses",
        says="got returned",
    ),
}
