"""Other people's firewalls: the accepts that our bridges need on machines where Docker runs or has run.

dockerd sets the policy of the FORWARD chain in ``ip filter`` to drop and leaves it behind when it ends. A drop in any base
chain is final, so no rule of our own table helps; an accept in that same table does. It stands in ``DOCKER-USER``
where there is one (Docker keeps what users put there), else at the top of FORWARD. What may pass between our networks
is still decided by our own table, whose drops are final too.

With a policy of drop on INPUT (ufw), containers could not ask our name server: then it gets an accept as well.

Each rule carries the comment ``bayplan-HASH``, is made again by ``reconcile`` and removed with the root's last container.
The rules are written through libnftables in a form that iptables-nft reads and prints (interface wildcards and comments
have the same bytes in both); where the machine still uses the legacy tables, by the program ``iptables-legacy``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from bayplan.errors import BayplanError

from . import nft
from .model import Finding
from .ruleset import bridges, table

_LEGACY = "iptables-legacy"
_TIMEOUT = 30  # seconds


class Accept(NamedTuple):
    """One accept that should stand in a foreign chain: ``direction`` is i or o, ``port`` a destination (protocol,
    number) or None."""

    chain: str
    direction: str
    port: tuple[str, int] | None = None

    def nft(self, root_hash: str) -> str:
        match = f'{self.direction}ifname "{bridges(root_hash)}"'
        if self.port:
            match += f" {self.port[0]} dport {self.port[1]}"
        return f'insert rule ip filter {self.chain} {match} counter accept comment "{table(root_hash)}"'

    def legacy(self, root_hash: str) -> list[str]:
        match = [f"-{self.direction}", bridges(root_hash).replace("*", "+")]
        if self.port:
            match += ["-p", self.port[0], "-m", self.port[0], "--dport", str(self.port[1])]
        return [self.chain, *match, "-m", "comment", "--comment", table(root_hash), "-j", "ACCEPT"]


def wanted(chains: Iterable[str], policies: dict[str, str]) -> list[Accept]:
    """The accepts that a filter table with these chains and policies needs. Pure."""
    out = []
    known = set(chains)
    if policies.get("FORWARD") == "drop" or "DOCKER-USER" in known:
        where = "DOCKER-USER" if "DOCKER-USER" in known else "FORWARD"
        out += [Accept(where, "o"), Accept(where, "i")]
    if policies.get("INPUT") == "drop":
        out += [Accept("INPUT", "i", ("udp", 53)), Accept("INPUT", "i", ("tcp", 53))]
    return out


def ensure(root_hash: str) -> bool:
    """Put our accepts into the filter tables of this machine as they are now; True when something was changed."""
    changed = _ensure_nft(root_hash)
    if _legacy_in_use():
        changed = _ensure_legacy(root_hash) or changed
    return changed


def remove(root_hash: str) -> None:
    """Take our accepts away again."""
    found = _nft_filter()
    if found is not None:
        handles = found.ours(root_hash)
        nft_text = "\n".join(f"delete rule ip filter {chain} handle {handle}" for chain, handle, _ in handles)
        if nft_text:
            nft.run(nft_text)
    if _legacy_in_use():
        for rule in _legacy_ours(root_hash):
            _iptables(["-D", *rule])


# -- nftables (iptables-nft's table `ip filter`) -------------------------------------------------------------------


class _Filter(NamedTuple):
    """The table ``ip filter`` as it stands: chains with their policies (``""`` for those without) and all rules."""

    policies: dict[str, str]
    rules: tuple[dict[str, Any], ...]

    def ours(self, root_hash: str) -> list[tuple[str, int, str]]:
        """Our rules: chain, handle, and their expressions as text (without counters), to be compared."""
        name = table(root_hash)
        return [
            (rule["chain"], rule["handle"], json.dumps([e for e in rule["expr"] if "counter" not in e]))
            for rule in self.rules
            if rule.get("comment") == name
        ]


def _nft_filter() -> _Filter | None:
    try:
        listed = nft.query("list table ip filter")
    except nft.NftError as error:
        if error.missing:
            return None
        raise
    policies = {e["chain"]["name"]: e["chain"].get("policy", "") for e in listed if "chain" in e}
    return _Filter(policies, tuple(e["rule"] for e in listed if "rule" in e))


def _signature(accept: Accept, root_hash: str) -> tuple[str, str]:
    """What libnftables says of our rule when it lists it: chain and expressions."""
    match: list[dict[str, Any]] = [
        {
            "match": {
                "op": "==",
                "left": {"meta": {"key": f"{accept.direction}ifname"}},
                "right": bridges(root_hash),
            }
        }
    ]
    if accept.port:
        left = {"payload": {"protocol": accept.port[0], "field": "dport"}}
        match.append({"match": {"op": "==", "left": left, "right": accept.port[1]}})
    return accept.chain, json.dumps([*match, {"accept": None}])


def _ensure_nft(root_hash: str) -> bool:
    found = _nft_filter()
    if found is None:
        return False
    need = {_signature(accept, root_hash): accept for accept in wanted(found.policies, found.policies)}
    lines = []
    present = set()
    for chain, handle, text in found.ours(root_hash):
        if (chain, text) in need and (chain, text) not in present:
            present.add((chain, text))
        else:
            lines.append(f"delete rule ip filter {chain} handle {handle}")
    lines += [accept.nft(root_hash) for signature, accept in need.items() if signature not in present]
    if lines:
        nft.run("\n".join(lines))
    return bool(lines)


# -- iptables-legacy -----------------------------------------------------------------------------------------------


def _legacy_in_use() -> bool:
    """Does this namespace have a legacy filter table? Asking the program would make one."""
    try:
        return "filter" in Path("/proc/thread-self/net/ip_tables_names").read_text().split()
    except OSError:
        return False


def _iptables(arguments: list[str]) -> str:
    import shutil
    import subprocess

    program = shutil.which(_LEGACY) or shutil.which("iptables")
    if program is None:
        raise BayplanError(
            "iptables-missing",
            "this machine has legacy iptables rules that may drop our packets, and no iptables program to change them",
            hint="apt-get install iptables",
        )
    try:
        done = subprocess.run(
            [program, "-w", "5", *arguments], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise BayplanError("iptables-failed", f"{program} did not end within {_TIMEOUT} s") from None
    if done.returncode != 0:
        raise BayplanError("iptables-failed", f"{program} refused {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _legacy_state() -> tuple[set[str], dict[str, str], list[list[str]]]:
    """Chains, policies and rules of the legacy filter table (``iptables -S``)."""
    chains: set[str] = set()
    policies: dict[str, str] = {}
    rules = []
    for line in _iptables(["-S"]).splitlines():
        words = line.split()
        if words[0] == "-P":
            chains.add(words[1])
            policies[words[1]] = words[2].lower()
        elif words[0] == "-N":
            chains.add(words[1])
        elif words[0] == "-A":
            rules.append(words[1:])
    return chains, policies, rules


def _legacy_ours(root_hash: str) -> list[list[str]]:
    return [rule for rule in _legacy_state()[2] if table(root_hash) in rule]


def _ensure_legacy(root_hash: str) -> bool:
    chains, policies, rules = _legacy_state()
    need = [accept.legacy(root_hash) for accept in wanted(chains, policies)]
    ours = [rule for rule in rules if table(root_hash) in rule]
    changed = False
    for rule in ours:
        if sorted(rule) not in [sorted(other) for other in need]:
            _iptables(["-D", *rule])
            changed = True
    for rule in need:
        if sorted(rule) not in [sorted(other) for other in ours]:
            _iptables(["-I", *rule])
            changed = True
    return changed


# -- doctor --------------------------------------------------------------------------------------------------------


def findings(root_hash: str, *, in_use: bool) -> list[Finding]:
    """What stands in our way, in foreign tables; no effect. ``in_use``: this root has containers on bridges now."""
    out = []
    found = _nft_filter()
    if found is not None and (need := wanted(found.policies, found.policies)):
        out += _accept_findings(root_hash, need, len(found.ours(root_hash)), found.policies, in_use=in_use)
    if _legacy_in_use():
        chains, policies, rules = _legacy_state()
        if need := wanted(chains, policies):
            ours = sum(table(root_hash) in rule for rule in rules)
            out += _accept_findings(root_hash, need, ours, policies, in_use=in_use)
    out += _other_drops()
    return out


def _accept_findings(
    root_hash: str, need: list[Accept], present: int, policies: dict[str, str], *, in_use: bool
) -> list[Finding]:
    dropping = [chain for chain in ("FORWARD", "INPUT") if policies.get(chain) == "drop"]
    who = "Docker or another firewall" if dropping else "Docker"
    what = f"{who} has set the policy of {' and '.join(dropping)} to drop" if dropping else f"{who} filters FORWARD"
    where = need[0].chain
    if in_use and present < len(need):
        return [
            Finding(
                "forward-drop",
                f"{what}, and the accepts for our bridges are missing from {where}: containers cannot reach the outside",
                "any `bayplan apply` or `bayplan container run` puts them back",
            )
        ]
    note = f"{what}; accepts for our bridges stand in {where} while containers run (comment {table(root_hash)})"
    return [Finding("forward-accepted", note, "nothing to do")]


def _other_drops() -> list[Finding]:
    """Forward chains of other tables (firewalld, hand-written ones) that drop or reject: we do not change those."""
    out = []
    for entry in nft.query("list chains"):
        chain = entry.get("chain", {})
        if chain.get("hook") != "forward" or chain["table"].startswith("bayplan-"):
            continue
        if chain["family"] == "ip" and chain["table"] == "filter":
            continue
        place = f"{chain['family']} {chain['table']} {chain['name']}"
        if chain["table"] == "firewalld":
            fix = "firewall-cmd --permanent --zone=trusted --add-source=10.180.0.0/14 && firewall-cmd --reload"
            out.append(Finding("firewalld", "firewalld decides about forwarded packets", fix))
        elif chain.get("policy") == "drop":
            fix = f"add accepts for our bridges there: nft insert rule {place} iifname 'bp*' accept (and oifname)"
            out.append(Finding("foreign-drop", f"the nftables chain {place} drops forwarded packets", fix))
    return out
