"""What students get wrong in lab 4, each as a change to the solution that loses the points of one check."""

from labs.mistakes import Mistake

MISTAKES = {
    "looks at its own network": Mistake(
        task="addresses-of",
        changes={"nsenter --target {pid} --net ip": "ip"},
        loses="check-addresses-of",
        says="got {'lo': ",
    ),
    "goes in and stays": Mistake(
        task="addresses-of",
        changes={
            'interfaces = json.loads(sh(f"nsenter --target {pid} --net ip -json address"))': (
                'syscalls.setns(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY))\n'
                'interfaces = json.loads(sh("ip -json address"))'
            )
        },
        loses="check-addresses-of-stays",
        says="as before, got it in net:[",
    ),
    "calls the other end by another name": Mistake(
        task="plug-in",
        changes={
            "peer name eth0": "peer name ceth0",
            "ip link set eth0 up": "ip link set ceth0 name eth1 up",
        },
        loses="check-plug-in-ends",
        says="got [['lo', 'veth-web'], ['eth1', 'lo']]",
    ),
    "leaves one end down": Mistake(
        task="plug-in",
        changes={'sh(f"ip link set {host_end} up")': "pass"},
        loses="check-plug-in-carries",
        says="once the check has given both ends an address, got",
    ),
    "forgets the loopback": Mistake(
        task="plug-in",
        changes={'sh("ip link set lo up")': "pass"},
        loses="check-plug-in-loopback",
        says="got '[Errno 101] Network is unreachable'",
    ),
    "drops the prefix length": Mistake(
        task="configure",
        changes={
            "ip address add {address} dev": "ip address add {address.partition('/')[0]} dev",
            "via {gateway}": "via {gateway} dev eth0 onlink",
        },
        loses="check-configure-address",
        says="got ['10.43.0.2/32']",
    ),
    "takes the world for neighbours": Mistake(
        task="configure",
        changes={"default via {gateway}": "default dev eth0"},
        loses="check-configure-route",
        says="'default dev eth0 scope link",
    ),
    "plugs in the first cable only": Mistake(
        task="bridge",
        changes={"in ports:": "in ports[:1]:"},
        loses="check-bridge-containers",
        says="expected the container 10.44.0.2 to reach 10.44.0.3, got",
    ),
    "gives the address to a port": Mistake(
        task="bridge",
        changes={"{address} dev {name}": "{address} dev {ports[0]}"},
        loses="check-bridge-host",
        says="expected the container to reach the host at 10.44.0.1, got",
    ),
    "does not forward": Mistake(
        task="masquerade",
        changes={'sh("sysctl -q -w net.ipv4.ip_forward=1")': "pass"},
        loses="check-masquerade-world",
        says="with ip_forward 0 and the rules",
    ),
    "masquerades everything": Mistake(
        task="masquerade",
        changes={" -s {subnet} ! -d {subnet}": ""},
        loses="check-masquerade-leaves-others",
        says="got ('welcome', ['10.45.0.1'])",
    ),
    "publishes under the container's own port": Mistake(
        task="publish",
        instead="""
        for chain, to in (("PREROUTING", address), ("OUTPUT", f"{address}:{container_port}")):
            sh(
                f"iptables -t nat -A {chain} -p tcp --dport {port} -m addrtype --dst-type LOCAL"
                f" -j DNAT --to-destination {to}"
            )
        """,
        loses="check-publish-outside",
        says="got '[Errno 111] Connection refused' with ip_forward 1",
    ),
    "publishes for arrivals only": Mistake(
        task="publish",
        changes={'("PREROUTING", "OUTPUT")': '("PREROUTING",)'},
        loses="check-publish-host",
        says="got '[Errno 111] Connection refused' with ip_forward 1",
    ),
    "catches the port of everybody": Mistake(
        task="publish",
        changes={" -m addrtype --dst-type LOCAL": ""},
        loses="check-publish-others",
        says="expected the container to reach a machine outside at http://203.0.113.1:8080, got",
    ),
    "takes the network's own number for an address": Mistake(
        task="connect",
        changes={"in network.hosts()": "in network"},
        loses="check-connect-containers",
        says="got ['10.47.0.1', '10.47.0.2'] returned",
    ),
    "sends packets out as they are": Mistake(
        task="connect",
        changes={'sh(f"iptables -t nat -A POSTROUTING -s {subnet} ! -d {subnet} -j MASQUERADE")': "pass"},
        loses="check-connect-world",
        says="got ('timed out', [])",
    ),
    "publishes the first container everywhere": Mistake(
        task="connect",
        changes={"{addresses[number]}:": "{addresses[0]}:"},
        loses="check-connect-ports",
        says="8081: 'container 0, port 80'",
    ),
    "flushes what others have put there": Mistake(
        task="disconnect",
        instead="""
        with Rtnetlink() as ip:
            ip.delete_link("lab0")
            for number in range(len(containers)):
                ip.delete_link(f"lab0-{number}")
        sh("iptables -t nat -F")
        """,
        loses="check-disconnect",
        says="got [['eth0', 'lo', 'theirs'], []]",
    ),
}
