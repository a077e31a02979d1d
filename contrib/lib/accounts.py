"""Demo accounts and their room, made through the homeserver's own client API."""

import json
import secrets
import urllib.error
import urllib.parse
import urllib.request

from children import StackError

NAMES = ["alice", "bob", "carol", "dave", "erin", "frank"]
REQUEST_SECONDS = 30


class Refused(StackError):
    def __init__(self, text, status, errcode):
        super().__init__(text)
        self.status, self.errcode = status, errcode


def request(origin, method, path, token=None, body=None):
    data = None if body is None else json.dumps(body).encode()
    query = urllib.request.Request(origin + path, data=data, method=method)
    query.add_header("Content-Type", "application/json")
    if token is not None:
        query.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(query, timeout=REQUEST_SECONDS) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as refusal:
        text = refusal.read().decode("utf-8", "replace")
        try:
            errcode = json.loads(text).get("errcode")
        except ValueError:
            errcode = None
        raise Refused(f"{method} {path}: {refusal.code} {text}", refusal.code, errcode) from None


def _log_in(origin, account):
    reply = request(origin, "POST", "/_matrix/client/v3/login", body={
        "type": "m.login.password", "device_id": account["deviceId"], "password": account["password"],
        "identifier": {"type": "m.id.user", "user": account["userId"]}})
    account["accessToken"] = reply["access_token"]


def _register(origin, name):
    account = {"password": secrets.token_urlsafe(12), "deviceId": f"DEMO{name.upper()}"}
    reply = request(origin, "POST", "/_matrix/client/v3/register", body={
        "auth": {"type": "m.login.dummy"}, "username": name, "password": account["password"],
        "device_id": account["deviceId"], "initial_device_display_name": "quickstart"})
    account.update(userId=reply["user_id"], accessToken=reply["access_token"])
    request(origin, "PUT", f"/_matrix/client/v3/profile/{urllib.parse.quote(account['userId'])}/displayname",
            account["accessToken"], {"displayname": name.capitalize()})
    return account


def _still_valid(origin, account):
    try:
        return request(origin, "GET", "/_matrix/client/v3/account/whoami",
                       account["accessToken"])["user_id"] == account["userId"]
    except Refused:
        return False


def _room_is_right(origin, room, users):
    try:
        joined = request(origin, "GET", f"/_matrix/client/v3/rooms/{urllib.parse.quote(room)}/joined_members",
                         users[0]["accessToken"])["joined"]
    except Refused:
        return False
    return set(joined) == {user["userId"] for user in users}


def ensure(origin, state, count):
    """`count` accounts with valid tokens, and a private room with exactly the first two joined; kept in `state`."""
    users = state.setdefault("users", [])
    for user in users:
        if not _still_valid(origin, user):
            _log_in(origin, user)
    while len(users) < count:
        index = len(users)
        users.append(_register(origin, NAMES[index] if index < len(NAMES) else f"user{index + 1}"))
    caller, callee = users[0], users[1]
    room = state.get("roomId")
    if room is None or not _room_is_right(origin, room, [caller, callee]):
        room = request(origin, "POST", "/_matrix/client/v3/createRoom", caller["accessToken"], {
            "preset": "trusted_private_chat", "is_direct": True, "name": "Demo call",
            "invite": [callee["userId"]]})["room_id"]
        request(origin, "POST", f"/_matrix/client/v3/rooms/{urllib.parse.quote(room)}/join",
                callee["accessToken"], {})
        state["roomId"] = room
    return users[:count], room
