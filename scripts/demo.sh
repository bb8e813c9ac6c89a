#!/usr/bin/env bash
# Something to see: a small shop on loopback (nginx, PostgreSQL and their clients) and `remora run` before it.
# Arguments go to `remora run`. Everything is in one directory and gone at the end; nothing that was here before is touched.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
remora=${REMORA_BIN:-$repository/target/release/remora}
unset REMORA_BIN # the agent takes variables that begin with REMORA_ for settings
say() { echo "demo: $*" >&2; }
fail() {
	say "$*"
	exit 1
}

((EUID == 0)) || fail "run as root: the agent loads BPF programs"
[[ -x $remora ]] || fail "$remora is missing: run \`make build\`"
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -1)
[[ -n $bin ]] || fail "PostgreSQL's server is missing: apt-get install postgresql"
for program in nginx psql curl setpriv python3; do
	command -v "$program" >/dev/null || fail "$program is missing: run \`make demo\`, which installs it"
done

directory=$(mktemp -d /tmp/remora-demo.XXXXXX)
pids=()

# Each pid is a child of this shell that was not waited for, so it cannot have become somebody else's.
cleanup() {
	trap - EXIT INT TERM
	local index
	for ((index = ${#pids[@]} - 1; index >= 0; index--)); do
		kill -INT "${pids[index]}" 2>/dev/null || true
		kill -TERM "${pids[index]}" 2>/dev/null || true
	done
	wait "${pids[@]}" 2>/dev/null || true
	rm -rf "$directory"
}
trap cleanup EXIT
# The agent takes Ctrl-C itself, prints its summary and ends; then so do we.
trap : INT
trap 'exit 143' TERM

# Starts a program in the background, out of reach of the terminal's Ctrl-C.
start() {
	local name=$1
	shift
	setsid setpriv --pdeathsig TERM -- "$@" </dev/null >>"$directory/$name.log" 2>&1 &
	pids+=($!)
}

free_ports() {
	python3 - "$1" <<-'PYTHON'
		import socket, sys
		sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
		for one in sockets:
		    one.bind(("127.0.0.1", 0))
		print(*(one.getsockname()[1] for one in sockets))
	PYTHON
}

# Waits for a command to succeed, 15 s at most.
await() {
	local what=$1 tries
	shift
	for ((tries = 0; tries < 300; tries++)); do
		if "$@" >/dev/null 2>&1; then return; fi
		sleep 0.05
	done
	cat "$directory"/*.log >&2
	fail "$what did not start"
}

read -r web_port shop_port database_port < <(free_ports 3)

# --- the database -----------------------------------------------------------------------------------------------------------------
mkdir "$directory/postgres"
chmod 755 "$directory"
chown postgres "$directory/postgres"
as_postgres=(setpriv --reuid=postgres --regid=postgres --init-groups --)
(cd / && "${as_postgres[@]}" "$bin/initdb" -D "$directory/postgres" -U postgres -A trust --no-sync --no-locale -E UTF8) \
	>"$directory/initdb.log" 2>&1 || { cat "$directory/initdb.log" >&2; fail "initdb failed"; }
cd /
start postgres "${as_postgres[@]}" "$bin/postgres" -D "$directory/postgres" -p "$database_port" \
	-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off
export PGHOST=127.0.0.1 PGPORT=$database_port PGUSER=postgres PGDATABASE=postgres PGSSLMODE=disable
await PostgreSQL psql -X -c 'SELECT 1'
psql -X -q <<-'SQL'
	CREATE TABLE items (id int PRIMARY KEY, name text, price int);
	INSERT INTO items SELECT n, 'item ' || n, n % 97 FROM generate_series(1, 1000) n;
	CREATE TABLE orders (id serial PRIMARY KEY, item int REFERENCES items, placed timestamptz DEFAULT now());
SQL

# --- the shop: a program that answers from the database ---------------------------------------------------------------------------
cat >"$directory/shop.py" <<'PYTHON'
import http.server, random, sys, threading, time
import psycopg2

local = threading.local()


def database():
    if not hasattr(local, "connection"):
        local.connection = psycopg2.connect("")
        local.connection.autocommit = True
    return local.connection.cursor()


class Shop(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body):
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        cursor = database()
        cursor.execute("SELECT name, price FROM items WHERE id = %s", (random.randint(1, 1030),))
        item = cursor.fetchone()
        time.sleep(random.expovariate(300))
        self.answer(200 if item else 404, repr(item))

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        cursor = database()
        try:
            cursor.execute("INSERT INTO orders (item) VALUES (%s) RETURNING id", (random.randint(1, 1060),))
            self.answer(201, str(cursor.fetchone()[0]))
        except psycopg2.errors.ForeignKeyViolation:
            self.answer(500, "no such item")

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


Server(("127.0.0.1", int(sys.argv[1])), Shop).serve_forever()
PYTHON
start shop /usr/bin/python3 "$directory/shop.py" "$shop_port"

# --- the web server before it -----------------------------------------------------------------------------------------------------
mkdir "$directory/nginx"
cat >"$directory/nginx.conf" <<NGINX
daemon off; user root; worker_processes 1; pid $directory/nginx/pid; error_log $directory/nginx/error.log;
events { worker_connections 512; }
http {
  access_log off; keepalive_requests 1000000;
  client_body_temp_path $directory/nginx/body; proxy_temp_path $directory/nginx/proxy; fastcgi_temp_path $directory/nginx/fastcgi;
  uwsgi_temp_path $directory/nginx/uwsgi; scgi_temp_path $directory/nginx/scgi;
  upstream shop { server 127.0.0.1:$shop_port; keepalive 8; }
  server {
    listen 127.0.0.1:$web_port;
    location / { return 200 'welcome\n'; }
    location /busy { return 503; }
    location /shop { proxy_pass http://shop; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
NGINX
start nginx nginx -e "$directory/nginx/error.log" -c "$directory/nginx.conf"
await nginx curl -sf "http://127.0.0.1:$web_port/"
await "the shop" curl -s "http://127.0.0.1:$shop_port/shop/items"

# --- the visitors ------------------------------------------------------------------------------------------------------------------
cat >"$directory/visitor.py" <<'PYTHON'
import http.client, random, sys, time

port = int(sys.argv[1])
while True:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        for _ in range(random.randint(20, 200)):
            chance = random.random()
            if chance < 0.5:
                connection.request("GET", "/")
            elif chance < 0.52:
                connection.request("GET", "/busy")
            elif chance < 0.85:
                connection.request("GET", "/shop/items/%d" % random.randint(1, 9))
            else:
                connection.request("POST", "/shop/orders", body="item=1")
            connection.getresponse().read()
            time.sleep(random.expovariate(100))
        connection.close()
    except (OSError, http.client.HTTPException):
        time.sleep(0.2)
PYTHON
for _ in 1 2 3; do start visitor /usr/bin/python3 "$directory/visitor.py" "$web_port"; done
cat >"$directory/report.sh" <<'SHELL'
while true; do
	psql -X -q -A -t -c 'SELECT count(*), max(placed) FROM orders' -c 'SELECT item, count(*) FROM orders GROUP BY item LIMIT 5'
	psql -X -q -A -t -c 'SELECT * FROM invoices' || true
	sleep 1
done
SHELL
start report bash "$directory/report.sh"

say "nginx on port $web_port, a shop in Python on $shop_port, PostgreSQL on $database_port; Ctrl-C or q ends it all"
code=0
"$remora" run "$@" || code=$?
exit "$code"
