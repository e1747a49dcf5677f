//! `docs/openapi.json` is true: every method of every path is asked of a real server, and what it
//! answers is what the file says. Then what no client of the file would send.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use crate::controlled::{Events, SECOND, ctl, http, raw, start, wait_until};
use crate::serving::{MIB, Place};
use serde_json::{Value, json};

/// The description, and which of its operations were asked.
struct Described {
    file: Value,
    asked: BTreeSet<String>,
}

impl Described {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        let text = fs::read_to_string(path).expect("it is readable");
        let mut file = serde_json::from_str(&text).expect("JSON");
        // Clients shall pass over what they do not know. Here nothing may be unknown.
        forbid_unknown(&mut file);
        Self { file, asked: BTreeSet::new() }
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        let found = &self.file["paths"][path][method.to_lowercase()];
        assert!(found.is_object(), "{method} {path} is not described");
        found
    }

    /// Fails unless `value` is what a schema of the file says.
    #[track_caller]
    fn assert_valid(&self, schema: &Value, value: &Value, told: &str) {
        let mut schema = schema.clone();
        schema["components"] = self.file["components"].clone();
        let validator = jsonschema::draft202012::new(&schema).expect("a schema");
        let found: Vec<_> = validator.iter_errors(value).map(|it| it.to_string()).collect();
        assert!(found.is_empty(), "{told}: {found:#?}\n{value:#}");
    }

    /// Asks, and holds request and answer against the file. Returns the answer. `name` stands for `{name}` in the
    /// path; if that has none, it is the parameters.
    #[track_caller]
    fn ask(
        &mut self,
        place: &Place,
        (method, path, name): (&str, &str, &str),
        body: &Value,
        expected: u16,
    ) -> Value {
        let told = format!("{method} {path} {body}");
        let operation = self.operation(method, path).clone();
        if expected < 300 {
            match operation.get("requestBody") {
                Some(wanted) => {
                    self.assert_valid(
                        &wanted["content"]["application/json"]["schema"],
                        body,
                        &told,
                    );
                }
                None => assert!(body.is_null(), "{told}: no body is described"),
            }
            self.asked.insert(format!("{method} {path}"));
        }
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let asked = match path.contains("{name}") || name.is_empty() {
            true => path.replace("{name}", name),
            false => format!("{path}?{name}"),
        };
        let (status, answer) = http(place, method, &asked, &text);
        assert_eq!(status, expected, "{told}: {answer}");
        let described = &operation["responses"][status.to_string()];
        assert!(described.is_object(), "{told}: {status} is not described");
        match described.get("content") {
            None => {
                assert_eq!(answer, "", "{told}");
                Value::Null
            }
            Some(content) if content.get("application/json").is_none() => Value::String(answer),
            Some(content) => {
                let answer = serde_json::from_str(&answer).expect("JSON");
                self.assert_valid(&content["application/json"]["schema"], &answer, &told);
                answer
            }
        }
    }
}

impl Described {
    /// Reads the first event.
    fn watch(&mut self, place: &Place) {
        let operation = self.operation("GET", "/v1/events").clone();
        assert!(operation["responses"]["200"]["content"]["text/event-stream"].is_object());
        let mut events = Events::of(place);
        let status = events.next().expect("one at once");
        self.assert_valid(&json!({ "$ref": "#/components/schemas/Status" }), &status, "an event");
        self.asked.insert("GET /v1/events".into());
    }
}

fn forbid_unknown(value: &mut Value) {
    if let Some(object) = value.as_object_mut() {
        if object.get("type") == Some(&json!("object")) {
            object.insert("additionalProperties".into(), json!(false));
        }
        object.values_mut().for_each(forbid_unknown);
    }
    if let Some(list) = value.as_array_mut() {
        list.iter_mut().for_each(forbid_unknown);
    }
}

const NONE: Value = Value::Null;

#[test]
fn every_answer_is_as_described() {
    let place = Place::new(8, &["a"]);
    let mut file = Described::new();
    let serving = start(&place, &["--snapshot", &format!("a={}", place.text("a"))]);
    let status = ("GET", "/v1/status", "");
    let snapshots = ("POST", "/v1/snapshots", "");
    let one = |method| (method, "/v1/snapshots/{name}", "a");
    let merge = |method| (method, "/v1/merge", "");
    let code = |answer: &Value| answer["error"]["code"].as_str().expect("a code").to_owned();

    file.ask(&place, status, &NONE, 200);
    file.watch(&place);
    file.ask(&place, one("GET"), &NONE, 200);
    // Every option, and a name that has to be encoded.
    let make = json!({ "chunk_bytes": 16384, "size_bytes": 4 * MIB });
    let odd = json!({
        "name": "o d/d\"%", "cow": place.text("odd"), "make": make, "on_full": "wait:7",
        "max_size_bytes": 8 * MIB, "discard_zeroes": true, "discard_passdown": true,
    });
    let made = file.ask(&place, snapshots, &odd, 201);
    assert_eq!((&made["chunk_bytes"], &made["on_full"]), (&json!(16384), &json!("wait:7")));
    let named = file.ask(&place, ("GET", "/v1/snapshots/{name}", "o%20d%2Fd%22%25"), &NONE, 200);
    assert_eq!(named["name"], odd["name"]);
    fs::write(place.path("t"), vec![0; 1 << 20]).expect("written");
    let transient = json!({ "name": "t", "cow": place.text("t"), "transient_chunk_bytes": 4096 });
    let made = file.ask(&place, snapshots, &transient, 201);
    assert_eq!((&made["persistent"], &made["metadata_writes"]), (&json!(false), &NONE));

    place.qemu_io("a", &["write -P 7 0 2M", "flush"]);
    let diff = |query| ("GET", "/v1/diff", query);
    let page = file.ask(&place, diff("from=a&to=origin&start=4096&max=1"), &NONE, 200);
    assert_eq!((&page["ranges"][0]["start"], &page["next"]), (&json!(4096), &NONE));
    file.ask(&place, diff("from=a&to=o+d%2Fd%22%25"), &NONE, 200);
    assert_eq!(code(&file.ask(&place, diff("from=a&to=b&max=0"), &NONE, 400)), "bad-request");
    assert_eq!(code(&file.ask(&place, diff("from=a&to=b"), &NONE, 404)), "not-found");
    let metrics = file.ask(&place, ("GET", "/metrics", ""), &NONE, 200);
    assert_metrics(metrics.as_str().expect("text"));

    let invalidate = |name| ("POST", "/v1/snapshots/{name}/invalidate", name);
    let grow = |name| ("POST", "/v1/snapshots/{name}/grow", name);
    let flush = |name| ("POST", "/v1/snapshots/{name}/flush", name);
    file.ask(&place, grow("t"), &json!({ "size_bytes": 2 * MIB }), 200);
    file.ask(&place, flush("a"), &NONE, 204);
    file.ask(&place, ("POST", "/v1/flush", ""), &NONE, 204);
    let start = json!({ "snapshot": "a", "rate_bytes_per_second": 1, "window_bytes": 4096 });
    assert_eq!(code(&file.ask(&place, merge("GET"), &NONE, 409)), "not-merging");
    let absent = json!({ "snapshot": "zzz" });
    assert_eq!(code(&file.ask(&place, merge("POST"), &absent, 404)), "not-found");
    let unfit = json!({ "snapshot": "t" });
    assert_eq!(code(&file.ask(&place, merge("POST"), &unfit, 422)), "unsupported");
    file.ask(&place, merge("POST"), &start, 200);
    file.ask(&place, merge("GET"), &NONE, 200);
    let unknown = file.ask(&place, diff("from=a&to=origin"), &NONE, 409);
    assert_eq!(code(&unknown), "changes-unknown");
    file.ask(&place, status, &NONE, 200);
    assert_eq!(code(&file.ask(&place, merge("POST"), &start, 409)), "merging");
    assert_eq!(code(&file.ask(&place, one("DELETE"), &NONE, 409)), "merging");
    assert_eq!(code(&file.ask(&place, snapshots, &odd, 409)), "name-in-use");
    file.ask(&place, ("POST", "/v1/merge/pause", ""), &NONE, 200);
    file.ask(&place, ("POST", "/v1/merge/resume", ""), &NONE, 200);
    let tune = json!({ "rate_bytes_per_second": 0, "window_bytes": MIB });
    let zero = json!({ "window_bytes": 0 });
    assert_eq!(code(&file.ask(&place, merge("PATCH"), &zero, 400)), "bad-request");
    file.ask(&place, merge("PATCH"), &tune, 200);
    wait_until("the end", || http(&place, "GET", "/v1/merge", "").1.contains("\"finished\""));
    assert_eq!(
        code(&file.ask(&place, ("POST", "/v1/merge/cancel", ""), &NONE, 409)),
        "not-merging"
    );
    file.ask(&place, one("DELETE"), &NONE, 204);
    assert_eq!(code(&file.ask(&place, one("DELETE"), &NONE, 404)), "not-found");

    let again = json!({ "name": "a", "cow": place.text("a") });
    file.ask(&place, snapshots, &again, 201);
    place.qemu_io("a", &["write -P 8 0 2M", "flush"]);
    file.ask(&place, merge("POST"), &start, 200);
    file.ask(&place, ("POST", "/v1/merge/cancel", ""), &NONE, 200);
    let way_back = json!({ "cow": place.text("undo"), "name": "w", "max_size_bytes": 64 * MIB });
    let undoable = json!({ "snapshot": "a", "rate_bytes_per_second": 1, "undo": way_back });
    let undo = ("POST", "/v1/merge/undo", "");
    let of_a = json!({ "snapshot": "a" });
    assert_eq!(code(&file.ask(&place, undo, &of_a, 422)), "refused");
    let begun = file.ask(&place, merge("POST"), &undoable, 200);
    assert_eq!((&begun["way_back"], &begun["way_back_lost"]), (&json!("w"), &json!(false)));
    assert_eq!(code(&file.ask(&place, undo, &json!({ "snapshot": "w" }), 409)), "merging");
    assert_eq!(file.ask(&place, undo, &of_a, 200)["snapshot"], "w");
    file.ask(&place, status, &NONE, 200);
    file.ask(&place, ("POST", "/v1/merge/cancel", ""), &NONE, 200);
    let dropped = file.ask(&place, invalidate("a"), &NONE, 200);
    assert_eq!((&dropped["state"], &dropped["total_bytes"]), (&json!("invalid"), &NONE));
    assert_eq!(code(&file.ask(&place, flush("a"), &NONE, 409)), "invalid");
    file.ask(&place, status, &NONE, 200);
    let lacking = json!({ "name": "n", "cow": place.text("nowhere") });
    assert_eq!(code(&file.ask(&place, snapshots, &lacking, 422)), "refused");

    file.ask(&place, ("POST", "/v1/shutdown", ""), &NONE, 202);
    serving.stop_by_itself();
    let paths = file.file["paths"].as_object().expect("paths");
    for (path, operations) in paths {
        for method in operations.as_object().expect("operations").keys() {
            let known = format!("{} {path}", method.to_uppercase());
            assert!(method == "parameters" || file.asked.contains(&known), "{known}: not asked");
        }
    }
}

/// Every line is a comment or a number; names and labels are those the manual promises.
fn assert_metrics(text: &str) {
    let number = |line: &str| line.rsplit(' ').next().and_then(|it| it.parse::<f64>().ok());
    let value = |begin: &str| {
        let line = text.lines().find(|line| line.starts_with(begin));
        number(line.unwrap_or_else(|| panic!("no {begin}: {text}"))).expect("a number")
    };
    assert!(text.lines().all(|line| line.starts_with("# ") || number(line).is_some()), "{text}");
    assert!(text.ends_with('\n') && !text.contains("# EOF"), "{text}");
    let of_a = "{export=\"a\",kind=\"write\"}";
    assert!(value(&format!("dmsnap_requests_total{of_a} ")) >= 1.0);
    assert_eq!(value(&format!("dmsnap_request_range_bytes_total{of_a} ")), 2097152.0);
    assert_eq!(value(&format!("dmsnap_request_errors_total{of_a} ")), 0.0);
    let count = value(&format!("dmsnap_request_duration_seconds_count{of_a} "));
    let all = "dmsnap_request_duration_seconds_bucket{le=\"+Inf\",export=\"a\",kind=\"write\"} ";
    assert_eq!(value(all), count);
    assert_eq!(value("dmsnap_snapshot_exceptions{snapshot=\"a\"} "), 512.0);
    assert_eq!(value("dmsnap_snapshot_exceptions{snapshot=\"o d/d\\\"%\"} "), 0.0);
    assert_eq!(value("dmsnap_snapshot_state{snapshot=\"a\",state=\"active\"} "), 1.0);
    assert!(value("dmsnap_snapshot_metadata_flushes_total{snapshot=\"a\"} ") >= 2.0);
    for name in [
        "dmsnap_snapshot_fill_ratios",
        "dmsnap_snapshot_unpublished",
        "dmsnap_snapshot_allocated_bytes",
    ] {
        value(&format!("{name}{{snapshot=\"a\"}} "));
    }
}

/// Whatever bytes come, the server answers or hangs up, and serves the next client.
#[test]
fn nonsense_is_answered_or_cut_off() {
    let place = Place::new(1, &["a"]);
    let serving = start(&place, &["--snapshot", &format!("a={}", place.text("a"))]);
    let status = |request: &[u8]| {
        let answer = raw(&place, request);
        answer.split(' ').nth(1).and_then(|it| it.parse::<u16>().ok())
    };
    let long = "x".repeat(100 << 10);
    let body = |length: &str, body: &str| {
        format!("POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    for (request, expected) in [
        ("\0\0\0\r\n\r\n".to_owned(), Some(400)),
        ("GET / HTTP/9.9\r\n\r\n".into(), Some(400)),
        ("GET /v1/status\r\n\r\n".into(), Some(400)),
        ("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n".into(), Some(404)),
        ("GET /v1/snapshots/%ff HTTP/1.1\r\nHost: x\r\n\r\n".into(), Some(400)),
        ("GET /v1/snapshots/zzz HTTP/1.1\r\nHost: x\r\n\r\n".into(), Some(404)),
        ("PUT /v1/merge HTTP/1.1\r\nHost: x\r\n\r\n".into(), Some(405)),
        ("HEAD /v1/status HTTP/1.1\r\nHost: x\r\n\r\n".into(), Some(200)),
        (body("2", "{}"), Some(400)),
        (body("4", "null"), Some(400)),
        (body("9", "[[[[[[[[["), Some(400)),
        (body("-1", "{}"), Some(400)),
        (body(&long.len().to_string(), &long), Some(413)),
        (body("1000", &"[".repeat(1000)), Some(400)),
        (body("20", "{\"unknown\":1,\"x\":\"y\"}"), Some(400)),
    ] {
        let shown = &request[..request.len().min(80)];
        assert_eq!(status(request.as_bytes()), expected, "{shown:?}");
    }
    // Heads without end; hyper says how far it goes.
    for request in [format!("GET /{long} HTTP/1.1\r\n\r\n"), format!("GET / HTTP/1.1\r\na: {long}")]
    {
        assert!(matches!(status(request.as_bytes()), None | Some(400..=499)));
    }
    let many = "a: b\r\n".repeat(1000);
    let answer = status(format!("GET /v1/status HTTP/1.1\r\n{many}\r\n").as_bytes());
    assert!(matches!(answer, None | Some(400..=499)), "{answer:?}");
    let relative = r#"{"name":"n","cow":"relative"}"#;
    assert_eq!(status(body("29", relative).as_bytes()), Some(400));
    let reserved = r#"{"name":"origin","cow":"/x"}"#;
    assert_eq!(status(body("28", reserved).as_bytes()), Some(400));
    // One after the other on a connection, unless the client wants no more than one.
    let twice = "GET /v1/merge HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    assert_eq!(raw(&place, twice.as_bytes()).matches("HTTP/1.1").count(), 2);
    let once = twice.replacen("Host: x\r\n", "Host: x\r\nConnection: close\r\n", 1);
    assert_eq!(raw(&place, once.as_bytes()).matches("HTTP/1.1").count(), 1);
    ctl(&place, &["status"]);
    assert_eq!(serving.stop(), "");
}

/// More clients than are let in, who say nothing, or half of something, or do not listen: they
/// are cut off, one that comes later is served, and the end of the server does not wait for them.
#[test]
fn slow_clients_hold_nobody_up() {
    let place = Place::new(1, &[]);
    let serving = start(&place, &[]);
    let connect = |said: &str| {
        let mut stream = UnixStream::connect(place.path("control")).expect("connected");
        stream.write_all(said.as_bytes()).expect("written");
        stream.set_read_timeout(Some(30 * SECOND)).expect("set");
        stream
    };
    let half = "POST /v1/snapshots HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{";
    let mut body = connect(half);
    let mut silent: Vec<_> = (0..80).map(|_| connect("")).collect();
    let begun = Instant::now();
    ctl(&place, &["status"]);
    assert!(begun.elapsed() < 15 * SECOND, "{:?}", begun.elapsed());
    let mut answer = String::new();
    body.read_to_string(&mut answer).expect("it is closed");
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("time-out"), "{answer}");
    let closed = silent[0].read(&mut [0]).expect("it is closed");
    assert_eq!(closed, 0, "cut off without a word");
    let again = connect(half);
    let begun = Instant::now();
    assert_eq!(serving.stop(), "");
    assert!(begun.elapsed() < 8 * SECOND, "{:?}", begun.elapsed());
    drop(again);
}
