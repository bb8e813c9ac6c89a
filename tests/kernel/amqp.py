# What one client does to RabbitMQ, and what it knows of it: one line for each kind of exchange, `operation|resource|status|error|count`,
# then how long what it timed took at most, in nanoseconds.
import collections, sys, time
import pika

port, what = int(sys.argv[1]), sys.argv[2]
known = collections.Counter()
times = {}

def know(operation, resource="", status="ok", count=1):
    error = status.isdigit() or status in ("nack", "reject", "cancel", "unanswered")
    known[(operation, resource, "" if status in ("unanswered", "left") else status, error)] += count

def timed(name, act):
    begin = time.monotonic_ns()
    act()
    times[name] = time.monotonic_ns() - begin

def connect(password="guest", vhost="/"):
    credentials = pika.PlainCredentials("guest", password)
    properties = {"connection_name": "secret-name"}
    parameters = pika.ConnectionParameters("127.0.0.1", port, vhost, credentials, client_properties=properties)
    return pika.BlockingConnection(parameters)

def opened():
    connection = connect()
    know("connection.open", "/")
    return connection

def channel_of(connection):
    know("channel.open")
    return connection.channel()

SECRETS = pika.BasicProperties(headers={"token": "secret-header"}, user_id="guest", correlation_id="secret-correlation", type="secret-type")

def confirms():
    connection = opened()
    channel = channel_of(connection)
    channel.exchange_declare("truth.topic", "topic")
    know("exchange.declare", "truth.topic")
    channel.exchange_declare("truth.copy", "fanout")
    know("exchange.declare", "truth.copy")
    channel.exchange_bind("truth.copy", "truth.topic", "app.#")
    know("exchange.bind", "truth.topic -> truth.copy")
    channel.queue_declare("truth.work")
    know("queue.declare", "truth.work")
    channel.queue_bind("truth.work", "truth.copy", "")
    know("queue.bind", "truth.copy -> truth.work")
    channel.queue_declare("truth.full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    know("queue.declare", "truth.full")
    channel.confirm_delivery()
    know("confirm.select")
    def publish():
        for number in range(200):
            channel.basic_publish("truth.topic", "app.info", b"secret-body %d" % number, properties=SECRETS)
    timed("confirmed", publish)
    know("basic.publish", "truth.topic/app.info", "ack", 200)
    for size in (0, 5000, 100000):
        channel.basic_publish("truth.topic", "other", b"s" * size)
        know("basic.publish", "truth.topic/other", "ack")
    for _ in range(3):
        try:
            channel.basic_publish("truth.topic", "nobody", b"secret-body", properties=SECRETS, mandatory=True)
            raise SystemExit("somebody took it")
        except pika.exceptions.UnroutableError:
            know("basic.publish", "truth.topic/nobody", "312")
    channel.basic_publish("", "truth.full", b"first")
    know("basic.publish", "amq.default/truth.full", "ack")
    for _ in range(2):
        try:
            channel.basic_publish("", "truth.full", b"too many")
            raise SystemExit("the queue was not full")
        except pika.exceptions.NackError:
            know("basic.publish", "amq.default/truth.full", "nack")
    # Two channels in turn, of which one is confirmed.
    other = channel_of(connection)
    for number in range(50):
        other.basic_publish("truth.topic", "app.plain", b"secret-body %d" % number)
        channel.basic_publish("truth.topic", "app.turn", b"secret-body %d" % number)
    know("basic.publish", "truth.topic/app.plain", "left", 50)
    know("basic.publish", "truth.topic/app.turn", "ack", 50)
    channel.close(); other.close(); connection.close()
    know("channel.close", count=2)
    know("connection.close", "/")

def consumes():
    connection = opened()
    channel = channel_of(connection)
    channel.basic_qos(prefetch_count=300)
    know("basic.qos")
    counts = collections.Counter()
    def take(channel, method, properties, body):
        counts["seen"] += 1
        seen, key = counts["seen"], method.routing_key
        resource = "truth.topic/" + key
        if seen == 1:
            begin = time.monotonic_ns()
            time.sleep(0.05)
            channel.basic_ack(method.delivery_tag)
            times["held"] = time.monotonic_ns() - begin
            know("basic.deliver", resource, "ack")
        elif seen <= 100:
            channel.basic_ack(method.delivery_tag)
            know("basic.deliver", resource, "ack")
        elif seen <= 150:
            know("basic.deliver", resource, "ack")
            if seen % 10 == 0:
                channel.basic_ack(method.delivery_tag, multiple=True)
        elif seen <= 160:
            channel.basic_nack(method.delivery_tag, requeue=False)
            know("basic.deliver", resource, "nack")
        elif seen <= 170:
            channel.basic_reject(method.delivery_tag, requeue=False)
            know("basic.deliver", resource, "reject")
        elif seen <= 295:
            channel.basic_ack(method.delivery_tag)
            know("basic.deliver", resource, "ack")
        else:
            know("basic.deliver", resource, "left")
        if seen == 300:
            channel.stop_consuming()
    channel.basic_consume("truth.work", take)
    know("basic.consume", "truth.work")
    channel.start_consuming()
    know("basic.cancel", "truth.work")
    channel.close()
    know("channel.close")
    channel = channel_of(connection)
    for number in range(5):
        method, _, _ = channel.basic_get("truth.work")
        assert method.redelivered
        channel.basic_ack(method.delivery_tag)
        know("basic.get", "truth.work")
        know("basic.get-ok", "truth.topic/" + method.routing_key, "ack")
    assert channel.basic_get("truth.work")[0] is None
    know("basic.get", "truth.work", "empty")
    channel.tx_select(); channel.basic_publish("truth.topic", "app.tx", b"x"); channel.tx_commit()
    know("tx.select"); know("basic.publish", "truth.topic/app.tx", "left"); know("tx.commit")
    done = []
    channel.basic_consume("truth.work", lambda *_: (done.append(1), channel.stop_consuming()), auto_ack=True)
    know("basic.consume", "truth.work")
    channel.start_consuming()
    assert done
    know("basic.cancel", "truth.work")
    know("basic.deliver", "truth.topic/app.tx", "left")
    channel.close(); connection.close()
    know("channel.close"); know("connection.close", "/")

def fails():
    connection = opened()
    def refused(code, operation, resource, act):
        channel = channel_of(connection)
        try:
            act(channel)
            raise SystemExit("%s was not refused" % operation)
        except pika.exceptions.ChannelClosedByBroker as error:
            assert error.reply_code == code, error
            know(operation, resource, str(code))
    refused(404, "queue.declare", "truth.missing", lambda channel: channel.queue_declare("truth.missing", passive=True))
    refused(406, "queue.declare", "truth.work", lambda channel: channel.queue_declare("truth.work", durable=True))
    refused(403, "exchange.declare", "amq.mine", lambda channel: channel.exchange_declare("amq.mine", "direct"))
    refused(404, "basic.consume", "truth.missing", lambda channel: channel.basic_consume("truth.missing", print))
    def publish(channel):
        channel.confirm_delivery()
        know("confirm.select")
        channel.basic_publish("truth.nowhere", "key", b"secret-body")
    refused(404, "basic.publish", "truth.nowhere/key", publish)
    # An acknowledgement is told, not asked: its refusal is an exchange of its own, and what was asked behind it stays without answer.
    channel = channel_of(connection)
    try:
        channel.basic_ack(77)
        channel.basic_qos(prefetch_count=1)
        raise SystemExit("an unknown delivery was acknowledged")
    except pika.exceptions.ChannelClosedByBroker as error:
        assert error.reply_code == 406, error
        know("channel.close", "basic.ack", "406")
        know("basic.qos", "", "unanswered")
    connection.close()
    know("connection.close", "/")
    for arguments in ({"password": "secret-password"}, {"vhost": "nowhere"}):
        try:
            connect(**arguments)
            raise SystemExit("let in")
        except pika.exceptions.AMQPConnectionError:
            pass
    know("connection.start-ok", "", "403")
    know("connection.open", "nowhere", "530")

def late():
    connection = connect()
    channel = connection.channel()
    channel.queue_declare("truth.late")
    channel.confirm_delivery()
    channel.basic_publish("", "truth.late", b"before")
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(50):
        channel.basic_publish("", "truth.late", b"secret-body")
    know("basic.publish", "amq.default/truth.late", "ack", 50)
    for number in range(51):
        method, _, _ = channel.basic_get("truth.late")
        channel.basic_ack(method.delivery_tag)
    know("basic.get", "truth.late", "ok", 51)
    know("basic.get-ok", "amq.default/truth.late", "ack", 51)
    channel.close(); connection.close()
    know("channel.close"); know("connection.close")

for part in what.split(","):
    globals()[part]()
for (operation, resource, status, error), count in sorted(known.items()):
    print("|".join([operation, resource, status, str(error).lower(), str(count)]))
for name, duration in times.items():
    print("time|%s|%d" % (name, duration))
