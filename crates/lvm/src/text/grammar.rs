use std::cell::Cell;

use winnow::combinator::{alt, cut_err, opt, preceded, repeat};
use winnow::error::{AddContext, ErrMode, ModalResult, ParserError};
use winnow::prelude::*;
use winnow::stream::{LocatingSlice, Location, Stream};
use winnow::token::{any, one_of, take_till, take_while};

use super::{Entry, Item, MAX_DEPTH, MAX_ITEMS, Section, SyntaxError, SyntaxFault, Value};

type Input<'a> = LocatingSlice<&'a [u8]>;
type Parsed<T> = ModalResult<T, Fault>;

/// The innermost fault and where it is.
#[derive(Clone, Copy, Debug)]
struct Fault {
    at: usize,
    fault: Option<SyntaxFault>,
}

impl<'a> ParserError<Input<'a>> for Fault {
    type Inner = Self;

    fn from_input(input: &Input<'a>) -> Self {
        Self { at: input.current_token_start(), fault: None }
    }

    fn into_inner(self) -> Result<Self, Self> {
        Ok(self)
    }
}

impl<'a> AddContext<Input<'a>, SyntaxFault> for Fault {
    fn add_context(
        mut self,
        input: &Input<'a>,
        _: &<Input<'a> as Stream>::Checkpoint,
        context: SyntaxFault,
    ) -> Self {
        if self.fault.is_none() {
            self = Self { at: input.current_token_start(), fault: Some(context) };
        }
        self
    }
}

/// How deep the parser is, and how much it has found anywhere.
#[derive(Clone, Copy)]
struct Limits<'a> {
    depth: usize,
    items: &'a Cell<usize>,
}

impl Limits<'_> {
    fn deeper(self, input: &Input<'_>) -> Parsed<Self> {
        if self.depth < MAX_DEPTH {
            return Ok(Self { depth: self.depth + 1, ..self });
        }
        Err(ErrMode::Cut(Fault::new(input, SyntaxFault::Depth)))
    }

    fn one_more(self, input: &Input<'_>) -> Parsed<()> {
        if self.items.get() < MAX_ITEMS {
            self.items.set(self.items.get() + 1);
            return Ok(());
        }
        Err(ErrMode::Cut(Fault::new(input, SyntaxFault::Items)))
    }
}

impl Fault {
    fn new(input: &Input<'_>, fault: SyntaxFault) -> Self {
        Self { at: input.current_token_start(), fault: Some(fault) }
    }
}

/// Reads a whole text.
pub(crate) fn parse(bytes: &[u8]) -> Result<Section, SyntaxError> {
    let mut input = LocatingSlice::new(bytes);
    let error = match entries(&mut input, Limits { depth: 0, items: &Cell::new(0) }) {
        Ok(section) if input.is_empty() => return Ok(section),
        Ok(_) => Fault { at: input.current_token_start(), fault: Some(SyntaxFault::Name) },
        Err(ErrMode::Backtrack(error) | ErrMode::Cut(error)) => error,
        // Only streams that may grow are ever incomplete.
        Err(ErrMode::Incomplete(_)) => Fault { at: bytes.len(), fault: None },
    };
    let before = &bytes[..error.at.min(bytes.len())];
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Err(SyntaxError {
        line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        column: 1 + before.len() - line_start,
        fault: error.fault.unwrap_or(SyntaxFault::Name),
    })
}

fn entries(input: &mut Input<'_>, limits: Limits<'_>) -> Parsed<Section> {
    blank(input)?;
    let entries = repeat(0.., |input: &mut Input<'_>| entry(input, limits)).parse_next(input)?;
    Ok(Section { entries })
}

/// White space and comments.
fn blank(input: &mut Input<'_>) -> Parsed<()> {
    let space = take_while(1.., |byte: u8| byte.is_ascii_whitespace()).void();
    let comment = (b'#', take_till(0.., b'\n')).void();
    repeat(0.., alt((space, comment))).parse_next(input)
}

fn entry(input: &mut Input<'_>, limits: Limits<'_>) -> Parsed<Entry> {
    let start = input.current_token_start();
    let name = alt((quoted, bare_name)).parse_next(input)?;
    blank(input)?;
    let has_value = opt((b'=', blank)).parse_next(input)?.is_some();
    let item_start = input.current_token_start();
    let item = if has_value {
        Item::Value(value(input, limits)?)
    } else {
        cut_err(b'{').context(SyntaxFault::Item).parse_next(input)?;
        Item::Section(section(input, limits)?)
    };
    let end = input.previous_token_end();
    limits.one_more(input)?;
    blank(input)?;
    Ok(Entry { name, item, spans: [start, item_start, end].map(small) })
}

/// Texts are far shorter than 4 GiB.
fn small(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn bare_name(input: &mut Input<'_>) -> Parsed<String> {
    let letter = |byte: u8| {
        byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}' | b'=' | b'#' | b'"' | b'[' | b']')
    };
    take_while(1.., letter).map(text).parse_next(input)
}

fn section(input: &mut Input<'_>, limits: Limits<'_>) -> Parsed<Section> {
    let limits = limits.deeper(input)?;
    let inner = entries(input, limits)?;
    cut_err(b'}').context(SyntaxFault::Section).parse_next(input)?;
    Ok(inner)
}

fn value(input: &mut Input<'_>, limits: Limits<'_>) -> Parsed<Value> {
    cut_err(alt((
        number,
        quoted.map(Value::String),
        preceded(b'[', |input: &mut Input<'_>| list(input, limits)).map(Value::List),
    )))
    .context(SyntaxFault::Value)
    .parse_next(input)
}

fn list(input: &mut Input<'_>, limits: Limits<'_>) -> Parsed<Vec<Value>> {
    let limits = limits.deeper(input)?;
    let mut values = Vec::new();
    blank(input)?;
    while opt(b']').parse_next(input)?.is_none() {
        limits.one_more(input)?;
        values.push(value(input, limits)?);
        blank(input)?;
        // A comma may also follow the last one.
        if opt(b',').parse_next(input)?.is_none() {
            cut_err(b']').context(SyntaxFault::List).parse_next(input)?;
            break;
        }
        blank(input)?;
    }
    Ok(values)
}

fn number(input: &mut Input<'_>) -> Parsed<Value> {
    let digits = take_while(1.., |byte: u8| byte.is_ascii_digit() || byte == b'.');
    (opt(one_of([b'+', b'-'])), digits).take().verify_map(to_number).parse_next(input)
}

fn to_number(digits: &[u8]) -> Option<Value> {
    let digits = std::str::from_utf8(digits).ok()?;
    if digits.contains('.') {
        digits.parse().ok().map(Value::Float)
    } else {
        digits.parse().ok().map(Value::Integer)
    }
}

/// A string in double quotes, where `\"` and `\\` stand for one byte, or in single ones, where
/// nothing does.
fn quoted(input: &mut Input<'_>) -> Parsed<String> {
    let quote = one_of([b'"', b'\'']).parse_next(input)?;
    let escapes = quote == b'"';
    let mut bytes = Vec::new();
    loop {
        let mut plain = take_till(0.., |byte: u8| byte == quote || (escapes && byte == b'\\'));
        bytes.extend_from_slice(plain.parse_next(input)?);
        match cut_err(any).context(SyntaxFault::String).parse_next(input)? {
            b'\\' => {
                let next = cut_err(any).context(SyntaxFault::String).parse_next(input)?;
                if !matches!(next, b'"' | b'\\') {
                    bytes.push(b'\\');
                }
                bytes.push(next);
            }
            _ => return Ok(text(&bytes)),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
