use std::convert::Infallible;

use futures_util::stream::LocalBoxStream;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::metrics::{self, Form, Numbers};
use super::refusal::{Code, Refusal, Refused};

/// The body of an answer: whole, or as it comes to be.
pub(super) type Body =
    Either<Full<Bytes>, StreamBody<LocalBoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

pub(super) fn refused(refusal: Refusal) -> Response<Body> {
    json(refusal.code.status(), &Refused { error: refusal })
}

/// For a path that knows only these methods.
pub(super) fn not_allowed(methods: &[&str]) -> Response<Body> {
    let methods = methods.join(", ");
    let message = format_args!("this path knows {methods}");
    let mut response = refused(Refusal::new(Code::MethodNotAllowed, message));
    if let Ok(methods) = HeaderValue::from_str(&methods) {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

pub(super) fn numbers(status: u16, numbers: Numbers, form: Form) -> Response<Body> {
    match metrics::text(numbers, form) {
        Ok(text) => whole(status, Some(form.content_type()), text.into()),
        Err(error) => refused(Refusal::new(Code::Device, error)),
    }
}

pub(super) fn json(status: u16, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            whole(status, Some("application/json"), body.into())
        }
        // No value of ours has keys that are not text.
        Err(_) => nothing(500),
    }
}

pub(super) fn nothing(status: u16) -> Response<Body> {
    whole(status, None, Bytes::new())
}

/// Events, as they come.
pub(super) fn events(
    status: u16,
    events: LocalBoxStream<'static, Result<Frame<Bytes>, Infallible>>,
) -> Response<Body> {
    with_body(status, Some("text/event-stream"), Either::Right(StreamBody::new(events)))
}

fn whole(status: u16, kind: Option<&'static str>, body: Bytes) -> Response<Body> {
    with_body(status, kind, Either::Left(Full::new(body)))
}

fn with_body(status: u16, kind: Option<&'static str>, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(kind) = kind {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}
