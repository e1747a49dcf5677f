use dmsnap_format::{Tag, TagState};

use super::Error;

/// Refuses to merge a store by itself that somebody else relies on.
pub(super) fn refuse_alone(tag: Option<&Tag>, forget_undo: bool) -> Result<(), Error> {
    match tag {
        Some(Tag { state: TagState::Undo, partner: Some(partner), .. }) => {
            Err(Error::IsWayBack { partner: *partner })
        }
        Some(Tag {
            state: TagState::Merging, partner: Some(partner), needs_partner: true, ..
        }) if !forget_undo => Err(Error::PartnerMissing { partner: *partner }),
        _ => Ok(()),
    }
}

/// Do these two belong to one merge? One that was cut off may have written only one of the tags.
pub(super) fn are_partners(a: &Tag, b: &Tag) -> bool {
    let may = |of: &Tag, other: &Tag| of.partner.is_none_or(|partner| partner == other.id);
    let names = |of: &Tag, other: &Tag| of.partner == Some(other.id);
    may(a, b) && may(b, a) && (names(a, b) || names(b, a))
}

/// Refuses a merge of a store with a new undo store while another undo store has the way back.
pub(super) fn refuse_other_way_back(tag: Option<&Tag>) -> Result<(), Error> {
    match tag {
        Some(Tag { state: TagState::Merging | TagState::Undo, partner: Some(partner), .. }) => {
            Err(Error::PartnerMissing { partner: *partner })
        }
        _ => Ok(()),
    }
}

/// Refuses a way back that is none: the stores are not partners, or were given in the wrong order.
pub(super) fn refuse_wrong_order(shown: &Tag, merged: &Tag) -> Result<(), Error> {
    if !are_partners(shown, merged) {
        return Err(Error::of_undo(Error::NotPartners));
    }
    // An undo that was begun has made it the undo store of the other.
    match shown.state == TagState::Undo && !shown.undone {
        true => Err(Error::WrongOrder),
        false => Ok(()),
    }
}
