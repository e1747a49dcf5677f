use percent_encoding::percent_decode_str;

use super::call::{ALL, Route};
use super::refusal::{Code, Refusal};

/// A path that is known.
pub(super) enum Routed {
    /// And so is the method. The name in the path, decoded; empty if it has none.
    Endpoint(&'static dyn Route, String),
    /// Only these methods are known.
    Methods(Vec<&'static str>),
}

/// Finds out what a request is for. A `HEAD` is a `GET` whose body nobody wants.
pub(super) fn route(method: &str, path: &str) -> Result<Routed, Refusal> {
    let method = if method == "HEAD" { "GET" } else { method };
    let mut methods = Vec::new();
    for endpoint in ALL {
        let Some(name) = matched(endpoint.path(), path) else { continue };
        if endpoint.method() == method {
            let name = percent_decode_str(name).decode_utf8();
            let name = name.map_err(|_| Refusal::new(Code::BadRequest, "the name is not UTF-8"))?;
            return Ok(Routed::Endpoint(*endpoint, name.into_owned()));
        }
        methods.push(endpoint.method());
    }
    match methods.is_empty() {
        true => Err(Refusal::new(Code::NotFound, format_args!("there is no path {path}"))),
        false => Ok(Routed::Methods(methods)),
    }
}

/// What stands for `{name}`, or nothing if the pattern has none; `None` if the path is another.
fn matched<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let Some((before, after)) = pattern.split_once("{name}") else {
        return (pattern == path).then_some("");
    };
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    /// Path and name that a request leads to.
    fn led(method: &str, path: &str) -> (&'static str, String) {
        match route(method, path) {
            Ok(Routed::Endpoint(endpoint, name)) => (endpoint.path(), name),
            Ok(Routed::Methods(methods)) => panic!("{method} {path}: {methods:?}"),
            Err(refusal) => panic!("{method} {path}: {refusal}"),
        }
    }

    fn refused(path: &str) -> Code {
        route("GET", path).err().unwrap_or_else(|| panic!("{path} leads somewhere")).code
    }

    #[test]
    fn paths_lead_to_calls_with_names() {
        assert_eq!(led("GET", "/v1/status"), ("/v1/status", String::new()));
        assert_eq!(led("HEAD", "/v1/status"), ("/v1/status", String::new()));
        let one = "/v1/snapshots/{name}";
        assert_eq!(led("GET", "/v1/snapshots/a%2Fb%20%C3%B6"), (one, "a/b ö".into()));
        let grow = "/v1/snapshots/{name}/grow";
        assert_eq!(led("POST", "/v1/snapshots/grow/grow"), (grow, "grow".into()));
        match route("PUT", "/v1/merge") {
            Ok(Routed::Methods(methods)) => assert_eq!(methods, ["GET", "POST", "PATCH"]),
            _ => panic!("it knows no PUT"),
        }
    }

    /// Where an operation of the file says what stands in its body.
    fn schema(body: &Value) -> Option<String> {
        let reference = body["content"]["application/json"]["schema"]["$ref"].as_str()?;
        reference.strip_prefix("#/components/schemas/").map(str::to_owned)
    }

    /// What `docs/openapi.json` describes is what there is: methods and paths, the status of an
    /// answer, and what stands in both bodies.
    #[test]
    fn every_call_is_described_and_nothing_else() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let text = std::fs::read_to_string(path).expect("it is readable");
        let file: Value = serde_json::from_str(&text).expect("JSON");
        let mut described = BTreeMap::new();
        for (path, operations) in file["paths"].as_object().expect("paths") {
            let operations = operations.as_object().expect("operations");
            for (method, says) in operations.iter().filter(|(key, _)| *key != "parameters") {
                let responses = says["responses"].as_object().expect("responses");
                let (status, answer) =
                    responses.iter().find(|(status, _)| status.starts_with('2')).expect("one");
                let bodies = [schema(&says["requestBody"]), schema(answer)];
                described.insert((path.clone(), method.to_uppercase()), (status.clone(), bodies));
            }
        }
        let known = ALL.iter().map(|it| {
            let bodies = it.schemas().map(|schema| schema.map(str::to_owned));
            ((it.path().to_owned(), it.method().to_owned()), (it.status().to_string(), bodies))
        });
        assert_eq!(described, known.collect());
    }

    #[test]
    fn everything_else_leads_nowhere() {
        for path in ["", "/", "/v1", "/v1/status/", "/v1/snapshots/", "/v1/snapshots/a/b", "*"] {
            assert_eq!(refused(path), Code::NotFound, "{path}");
        }
        assert_eq!(refused("/v1/snapshots/%ff"), Code::BadRequest);
    }
}
