use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::api::DiffQuery;
use super::refusal::{Code, Refusal};

/// The parameters of a request: what follows the question mark.
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Parameters as forms send them: percent-encoded, a blank may be a plus.
    ///
    /// # Errors
    ///
    /// One that is not UTF-8, that is not among the `known`, or comes twice.
    pub(super) fn parse(text: &'a str, known: &[&str]) -> Result<Self, Refusal> {
        let mut parameters: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if !known.contains(&&*name) {
                let known = known.join(", ");
                return Err(bad(format_args!("the parameter {name:?} is not one of {known}")));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(bad(format_args!("the parameter {name} comes twice")));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    fn text(&self, name: &str) -> Result<String, Refusal> {
        match self.get(name) {
            Some(value) if !value.is_empty() => Ok(value.to_owned()),
            _ => Err(bad(format_args!("the parameter {name} is missing"))),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|_| text.bytes().all(|it| it.is_ascii_digit()));
        let found = || bad(format_args!("{name} is {text:?}, which is not a number of 64 bits"));
        number.map(Some).ok_or_else(found)
    }
}

impl DiffQuery {
    const NAMES: [&str; 4] = ["from", "to", "start", "max"];

    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let query = Query::parse(text, &Self::NAMES)?;
        let (from, to) = (query.text("from")?, query.text("to")?);
        let (start, max) = (query.number("start")?.unwrap_or(0), query.number("max")?);
        match max {
            Some(0) => Err(bad("max is 0; at least one range has to be asked for")),
            max => Ok(Self { from, to, start, max }),
        }
    }

    /// The same as parameters of a request.
    pub(super) fn text(&self) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut text = format!("from={}&to={}", encoded(&self.from), encoded(&self.to));
        if self.start > 0 {
            let _ = write!(text, "&start={}", self.start);
        }
        if let Some(max) = self.max {
            let _ = write!(text, "&max={max}");
        }
        text
    }
}

fn decoded(text: &str) -> Result<Cow<'_, str>, Refusal> {
    let not_text = |_| bad("a parameter is not UTF-8");
    match text.contains('+') {
        false => percent_decode_str(text).decode_utf8().map_err(not_text),
        true => {
            let text = text.replace('+', " ");
            let decoded = percent_decode_str(&text).decode_utf8().map_err(not_text)?;
            Ok(decoded.into_owned().into())
        }
    }
}

fn bad(found: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::BadRequest, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let refusal = DiffQuery::parse(text).err().unwrap_or_else(|| panic!("{text} is taken"));
        assert_eq!(refusal.code, Code::BadRequest, "{text}");
        refusal.message
    }

    #[test]
    fn parameters_come_back_as_they_were_whatever_the_names_hold() {
        for (from, to) in [("a", "origin"), ("o d/d\"%&=+", "\u{f6}?#"), ("100%", "+")] {
            for (start, max) in [(0, None), (u64::MAX, Some(1))] {
                let query = DiffQuery { from: from.into(), to: to.into(), start, max };
                assert_eq!(DiffQuery::parse(&query.text()), Ok(query.clone()), "{query:?}");
            }
        }
        let expected = DiffQuery { from: "a b".into(), to: "c d".into(), ..DiffQuery::default() };
        assert_eq!(DiffQuery::parse("&from=a+b&&to=c%20d"), Ok(expected));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_named() {
        for (text, told) in [
            ("", "from is missing"),
            ("from=a", "to is missing"),
            ("from=a&to=", "to is missing"),
            ("from&to=b", "from is missing"),
            ("from=a&to=b&max=0", "max is 0"),
            ("from=a&to=b&max=", "not a number"),
            ("from=a&to=b&max=-1", "not a number"),
            ("from=a&to=b&max=%2B1", "not a number"),
            ("from=a&to=b&start=1k", "not a number"),
            ("from=a&to=b&start=18446744073709551616", "not a number"),
            ("from=a&to=b&from=c", "from comes twice"),
            ("from=a&to=b&begin=1", "\"begin\" is not one of from, to, start, max"),
            ("from=%ff&to=b", "not UTF-8"),
        ] {
            assert!(refused(text).contains(told), "{text}: {}", refused(text));
        }
    }
}
