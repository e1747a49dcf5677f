use std::io;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use dmsnap_nbd::{
    BlockSize, ExportNameReply, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, Greeting, Info,
    MAX_PAYLOAD_BYTES, MIN_BLOCK_BYTES, MetaQuery, OptionHeader, OptionReply, OptionRequest,
    Refusal, Selection, option_code, transmission,
};

use super::contexts::context;
use super::reader::Reader;
use super::relay::Relay;
use super::session::Agreed;
use crate::export::{Exports, Lease, MAX_NAME_BYTES, Slot, StatusKind};

const _: () = assert!(MAX_NAME_BYTES <= dmsnap_nbd::MAX_STRING_BYTES);

/// The least block size that is recommended to clients, in bytes.
const LEAST_PREFERRED_BYTES: u32 = 4096;

/// Kinds of status, and what stands for them in replies.
type Chosen = Vec<(u32, StatusKind)>;

/// Talks with a client until it has chosen an export; `None` if it goes away in good order.
///
/// Nothing is asked of any device but its size, so the future can be dropped at any time.
pub(super) async fn handshake(
    reader: &mut Reader,
    exports: &Exports,
    relay: Option<&Relay>,
) -> io::Result<Option<Agreed>> {
    send(reader, Greeting::NEWSTYLE.encode().to_vec()).await?;
    let Some(flags) = reader.message().await?.map(u32::from_be_bytes) else { return Ok(None) };
    if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
        return Err(nonsense("client flags that were not offered"));
    }
    let padded = flags & u32::from(FLAG_NO_ZEROES) == 0;
    let mut negotiation =
        Negotiation { exports, relay, encrypted: false, padded, structured: false, chosen: None };
    loop {
        let Some(header) = reader.message().await? else { return Ok(None) };
        let header = OptionHeader::decode(header).ok_or_else(|| nonsense("no option magic"))?;
        let option = option(reader, header).await?;
        let (replies, next) = match option {
            Ok(option) => negotiation.answer(option)?,
            // This option has no error reply.
            Err(_) if header.code == option_code::EXPORT_NAME => {
                return Err(nonsense("an impossible export name"));
            }
            Err(refusal) => {
                (vec![OptionReply::Refused(refusal, why(refusal).into())], Next::Negotiate)
            }
        };
        let replies: Vec<u8> = replies.iter().flat_map(|reply| reply.encode(header.code)).collect();
        match next {
            Next::Negotiate => send(reader, replies).await?,
            Next::Encrypt(relay) => {
                // Somebody in between could have put these words into the client's mouth.
                if reader.has_ahead() {
                    return Err(nonsense("something was said before the encryption"));
                }
                send(reader, replies).await?;
                reader.transport().encrypt(relay)?;
                negotiation =
                    Negotiation { structured: false, chosen: None, encrypted: true, ..negotiation };
            }
            Next::Leave => {
                // The client may be gone already.
                let _ = send(reader, replies).await;
                return Ok(None);
            }
            Next::Transmit { agreed, unasked } => {
                send(reader, [replies, unasked].concat()).await?;
                return Ok(Some(agreed));
            }
        }
    }
}

/// Reads the data of an option. What is too long to make sense is passed over unread.
async fn option(
    reader: &mut Reader,
    header: OptionHeader,
) -> io::Result<Result<OptionRequest, Refusal>> {
    let refusal = match OptionRequest::max_len_bytes(header.code) {
        None => Refusal::Unsupported,
        Some(0) if header.len_bytes > 0 => Refusal::Invalid,
        Some(max) if header.len_bytes > max => Refusal::TooBig,
        Some(_) => {
            let len = usize::try_from(header.len_bytes).map_err(io::Error::other)?;
            return Ok(OptionRequest::decode(header.code, &reader.bytes(len).await?));
        }
    };
    reader.skip(header.len_bytes.into()).await?;
    Ok(Err(refusal))
}

/// What follows an option.
enum Next<'a> {
    Negotiate,
    /// Nothing that was agreed on before counts.
    Encrypt(&'a Relay),
    Leave,
    /// `unasked` is the answer to an export name, which is not an option reply.
    Transmit {
        agreed: Agreed,
        unasked: Vec<u8>,
    },
}

/// What has been agreed on so far.
struct Negotiation<'a> {
    exports: &'a Exports,
    relay: Option<&'a Relay>,
    encrypted: bool,
    padded: bool,
    structured: bool,
    /// Contexts, and the export they were chosen for.
    chosen: Option<(Weak<Slot>, Chosen)>,
}

/// Replies to an option, and what follows it.
type Answer<'a> = (Vec<OptionReply>, Next<'a>);

impl<'a> Negotiation<'a> {
    fn answer(&mut self, option: OptionRequest) -> io::Result<Answer<'a>> {
        let silent = !self.encrypted && self.relay.is_some_and(Relay::is_required);
        Ok(match option {
            OptionRequest::Abort => (vec![OptionReply::Ack], Next::Leave),
            OptionRequest::StartTls => self.start_tls(),
            OptionRequest::ExportName(_) if silent => {
                return Err(nonsense("encryption comes first"));
            }
            _ if silent => refused(Refusal::TlsRequired, why(Refusal::TlsRequired)),
            OptionRequest::ExportName(name) => self.export_name(&name)?,
            OptionRequest::List => (self.list(), Next::Negotiate),
            OptionRequest::Info(selection) => match self.info(&selection) {
                Ok((_, replies)) => (replies, Next::Negotiate),
                Err(refusal) => refusal,
            },
            OptionRequest::Go(selection) => match self.info(&selection) {
                Ok((agreed, replies)) => (replies, Next::Transmit { agreed, unasked: Vec::new() }),
                Err(refusal) => refusal,
            },
            OptionRequest::StructuredReply => {
                self.structured = true;
                (vec![OptionReply::Ack], Next::Negotiate)
            }
            OptionRequest::ListMeta(query) => self.list_contexts(&query),
            OptionRequest::SetMeta(query) => self.set_contexts(&query),
        })
    }

    fn start_tls(&self) -> Answer<'a> {
        match self.relay {
            None => refused(Refusal::Unsupported, "this server has no encryption"),
            Some(_) if self.encrypted => refused(Refusal::Invalid, "encrypted already"),
            Some(relay) => (vec![OptionReply::Ack], Next::Encrypt(relay)),
        }
    }

    fn list(&self) -> Vec<OptionReply> {
        let slots = self.exports.all();
        let servers = slots.iter().map(|slot| OptionReply::Server {
            name: slot.target.name().to_owned(),
            description: description(slot),
        });
        servers.chain([OptionReply::Ack]).collect()
    }

    fn export_name(&mut self, name: &str) -> io::Result<Answer<'a>> {
        let slot = self.exports.find(name).ok_or_else(|| nonsense("no such export"))?;
        let agreed = self.agree(slot)?;
        let flags = flags(agreed.lease.slot(), self.structured);
        let reply = ExportNameReply { size_bytes: agreed.promised_bytes, flags };
        let unasked = reply.encode(self.padded);
        Ok((Vec::new(), Next::Transmit { agreed, unasked }))
    }

    fn agree(&self, slot: Rc<Slot>) -> io::Result<Agreed> {
        let contexts = match &self.chosen {
            Some((of, contexts)) if of.ptr_eq(&Rc::downgrade(&slot)) => contexts.clone(),
            _ => Vec::new(),
        };
        let promised_bytes = slot.size_bytes()?;
        let lease = Lease::new(slot);
        Ok(Agreed { lease, promised_bytes, structured: self.structured, contexts })
    }

    fn info(&self, selection: &Selection) -> Result<(Agreed, Vec<OptionReply>), Answer<'a>> {
        let Some(slot) = self.exports.find(&selection.name) else {
            return Err(refused(Refusal::Unknown, why(Refusal::Unknown)));
        };
        let Ok(agreed) = self.agree(slot.clone()) else {
            return Err(refused(Refusal::Policy, "the size of the device cannot be found out"));
        };
        let size_bytes = agreed.promised_bytes;
        let preferred = slot.target.preferred_block_bytes();
        let preferred = preferred.clamp(LEAST_PREFERRED_BYTES, MAX_PAYLOAD_BYTES);
        let (minimum, maximum) = (MIN_BLOCK_BYTES, MAX_PAYLOAD_BYTES);
        let mut infos = vec![
            Info::Export { size_bytes, flags: flags(&slot, self.structured) },
            Info::BlockSize(BlockSize { minimum, preferred, maximum }),
        ];
        if selection.infos.contains(&Info::NAME) {
            infos.push(Info::Name(slot.target.name().to_owned()));
        }
        let description = description(&slot);
        if selection.infos.contains(&Info::DESCRIPTION) && !description.is_empty() {
            infos.push(Info::Description(description));
        }
        let replies = infos.into_iter().map(OptionReply::Info).chain([OptionReply::Ack]);
        Ok((agreed, replies.collect()))
    }

    /// The export of a query, if there may be one now.
    fn queried(&self, query: &MetaQuery) -> Result<Rc<Slot>, Answer<'a>> {
        if !self.structured {
            return Err(refused(Refusal::Invalid, "structured replies come first"));
        }
        let found = self.exports.find(&query.name);
        found.ok_or_else(|| refused(Refusal::Unknown, why(Refusal::Unknown)))
    }

    fn list_contexts(&self, query: &MetaQuery) -> Answer<'a> {
        let slot = match self.queried(query) {
            Ok(slot) => slot,
            Err(refusal) => return refusal,
        };
        let mut kinds = slot.target.status_kinds();
        if !query.queries.is_empty() {
            kinds.retain(|kind| query.queries.iter().any(|of| context(kind).is_listed_by(of)));
        }
        (meta_replies(kinds.into_iter().map(|kind| (0, kind))), Next::Negotiate)
    }

    fn set_contexts(&mut self, query: &MetaQuery) -> Answer<'a> {
        self.chosen = None;
        let slot = match self.queried(query) {
            Ok(slot) => slot,
            Err(refusal) => return refusal,
        };
        let kinds = slot.target.status_kinds().into_iter();
        let asked = kinds.filter(|kind| query.queries.iter().any(|of| context(kind).name() == of));
        let chosen: Vec<_> = (1..).zip(asked).collect();
        self.chosen = Some((Rc::downgrade(&slot), chosen.clone()));
        (meta_replies(chosen), Next::Negotiate)
    }
}

fn meta_replies(kinds: impl IntoIterator<Item = (u32, StatusKind)>) -> Vec<OptionReply> {
    let contexts = kinds.into_iter().map(|(id, kind)| {
        let name = context(&kind).name().to_owned();
        OptionReply::MetaContext { id, name }
    });
    contexts.chain([OptionReply::Ack]).collect()
}

fn flags(slot: &Slot, structured: bool) -> u16 {
    use transmission::{
        CAN_MULTI_CONN, HAS_FLAGS, READ_ONLY, SEND_CACHE, SEND_DF, SEND_FAST_ZERO, SEND_FLUSH,
        SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES,
    };
    let always = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_CACHE | CAN_MULTI_CONN;
    let writes = match slot.read_only {
        true => READ_ONLY,
        false => SEND_TRIM | SEND_WRITE_ZEROES | SEND_FAST_ZERO,
    };
    always | writes | if structured { SEND_DF } else { 0 }
}

/// Cut to what a string of the protocol may hold.
fn description(slot: &Slot) -> String {
    let mut description = slot.target.description().unwrap_or_default().replace('\0', " ");
    description.truncate(description.floor_char_boundary(dmsnap_nbd::MAX_STRING_BYTES));
    description
}

fn refused(refusal: Refusal, why: &'static str) -> Answer<'static> {
    (vec![OptionReply::Refused(refusal, why.into())], Next::Negotiate)
}

fn why(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Unsupported => "unknown option",
        Refusal::Policy => "not wanted here",
        Refusal::Invalid => "the data of the option is invalid",
        Refusal::TlsRequired => "encryption comes first",
        Refusal::Unknown => "there is no export of that name",
        Refusal::TooBig => "too long",
        _ => "not possible",
    }
}

async fn send(reader: &Reader, bytes: Vec<u8>) -> io::Result<()> {
    reader.transport().send(vec![Bytes::from(bytes)]).await
}

fn nonsense(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
