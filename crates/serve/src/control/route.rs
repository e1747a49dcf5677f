use percent_encoding::percent_decode_str;

use super::refusal::{Code, Refusal};

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Status,
    Metrics,
    Create,
    Snapshot,
    Remove,
    Invalidate,
    Grow,
    Flush,
    FlushAll,
    Merge,
    StartMerge,
    TuneMerge,
    PauseMerge,
    ResumeMerge,
    CancelMerge,
    Shutdown,
}

/// Every method of every path. `{name}` stands for one part of the path, percent-encoded.
const ROUTES: [(&str, &str, Verb); 16] = [
    ("GET", "/v1/status", Verb::Status),
    ("POST", "/v1/snapshots", Verb::Create),
    ("GET", "/v1/snapshots/{name}", Verb::Snapshot),
    ("DELETE", "/v1/snapshots/{name}", Verb::Remove),
    ("POST", "/v1/snapshots/{name}/invalidate", Verb::Invalidate),
    ("POST", "/v1/snapshots/{name}/grow", Verb::Grow),
    ("POST", "/v1/snapshots/{name}/flush", Verb::Flush),
    ("POST", "/v1/flush", Verb::FlushAll),
    ("GET", "/v1/merge", Verb::Merge),
    ("POST", "/v1/merge", Verb::StartMerge),
    ("PATCH", "/v1/merge", Verb::TuneMerge),
    ("POST", "/v1/merge/pause", Verb::PauseMerge),
    ("POST", "/v1/merge/resume", Verb::ResumeMerge),
    ("POST", "/v1/merge/cancel", Verb::CancelMerge),
    ("POST", "/v1/shutdown", Verb::Shutdown),
    ("GET", "/metrics", Verb::Metrics),
];

/// A path that is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Routed {
    /// And so is the method. The name in the path, if it has one.
    Verb(Verb, String),
    /// These methods are known.
    Methods(Vec<&'static str>),
}

/// Finds out what a request is for. A `HEAD` is a `GET` whose body nobody wants.
pub(super) fn route(method: &str, path: &str) -> Result<Routed, Refusal> {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut methods = Vec::new();
    for (known, pattern, verb) in ROUTES {
        let Some(name) = matched(pattern, path) else { continue };
        if known == method {
            let name = percent_decode_str(name).decode_utf8();
            let name = name.map_err(|_| Refusal::new(Code::BadRequest, "the name is no UTF-8"))?;
            return Ok(Routed::Verb(verb, name.into_owned()));
        }
        methods.push(known);
    }
    match methods.is_empty() {
        true => Err(Refusal::new(Code::NotFound, format_args!("there is no path {path}"))),
        false => Ok(Routed::Methods(methods)),
    }
}

/// What stands for `{name}`, or nothing if the pattern has none; `None` if the path is another.
fn matched<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, behind)) = pattern.split_once("{name}") else {
        return (pattern == path).then_some("");
    };
    let name = path.strip_prefix(before)?.strip_suffix(behind)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verb(verb: Verb, name: &str) -> Result<Routed, Refusal> {
        Ok(Routed::Verb(verb, name.into()))
    }

    #[test]
    fn paths_lead_to_verbs_with_names() {
        assert_eq!(route("GET", "/v1/status"), verb(Verb::Status, ""));
        assert_eq!(route("HEAD", "/v1/status"), verb(Verb::Status, ""));
        assert_eq!(route("GET", "/v1/snapshots/a%2Fb%20%C3%B6"), verb(Verb::Snapshot, "a/b ö"));
        assert_eq!(route("POST", "/v1/snapshots/grow/grow"), verb(Verb::Grow, "grow"));
        assert_eq!(route("PUT", "/v1/merge"), Ok(Routed::Methods(vec!["GET", "POST", "PATCH"])));
    }

    /// What `docs/openapi.json` describes is what there is.
    #[test]
    fn every_route_is_described_and_nothing_else() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let text = std::fs::read_to_string(path).expect("it is readable");
        let file: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let paths = file["paths"].as_object().expect("paths");
        let mut described: Vec<(String, String)> = paths
            .iter()
            .flat_map(|(path, operations)| {
                let operations = operations.as_object().expect("operations").keys();
                let methods = operations.filter(|key| *key != "parameters");
                methods.map(|method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        let mut known = ROUTES.map(|(method, path, _)| (path.to_owned(), method.to_owned()));
        described.sort();
        known.sort();
        assert_eq!(described, known);
    }

    #[test]
    fn everything_else_leads_nowhere() {
        for path in ["", "/", "/v1", "/v1/status/", "/v1/snapshots/", "/v1/snapshots/a/b", "*"] {
            assert_eq!(route("GET", path).expect_err(path).code, Code::NotFound, "{path}");
        }
        let odd = route("GET", "/v1/snapshots/%ff").expect_err("no text");
        assert_eq!(odd.code, Code::BadRequest);
    }
}
