use std::fmt;

use dmsnap_lvm::Uuid;

/// `[VG/]LV`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// Its name or its uuid. Only one volume group may be there, if it is left out.
    pub group: Option<String>,
    /// The volume, as LVM knows it in that group.
    pub volume: String,
}

/// A text that is not the name of a volume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a volume, as VG/LV is")]
pub struct NameError(String);

impl Name {
    /// Whether both may mean one volume: a group is named by its name or by its uuid.
    pub fn is_same(&self, other: &Self) -> bool {
        let groups = self.group.as_ref().zip(other.group.as_ref());
        let is_id = |group: &str| Uuid::parse(group).is_some();
        self.volume == other.volume && groups.is_none_or(|(a, b)| a == b || is_id(a) != is_id(b))
    }

    /// Another volume of the same group.
    pub fn in_same_group(&self, volume: &str) -> Self {
        Self { group: self.group.clone(), volume: volume.into() }
    }

    /// `VG-LV`, as device-mapper has it: hyphens of the names are doubled. What follows after one
    /// more hyphen is LVM's name of a part: `-cow` of a snapshot, `-real` of an origin.
    fn of_mapper(text: &str) -> Option<Self> {
        let mut names = vec![String::new()];
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '-' if chars.next_if_eq(&'-').is_none() => names.push(String::new()),
                c => names.last_mut()?.push(c),
            }
        }
        match &names[..] {
            [group, volume] => Some(Self { group: Some(group.clone()), volume: volume.clone() }),
            [group, volume, part] if part == "cow" || part == "real" => {
                Some(Self { group: Some(group.clone()), volume: volume.clone() })
            }
            _ => None,
        }
    }
}

/// `[VG/]LV`, and the names of the device nodes that LVM would make: `/dev/VG/LV`,
/// `/dev/mapper/VG-LV`.
impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = match (text.strip_prefix("/dev/mapper/"), text.strip_prefix("/dev/")) {
            (Some(node), _) => Self::of_mapper(node),
            (None, rest) => {
                let rest = rest.map_or(text, |rest| rest.trim_start_matches('/'));
                match rest.split_once('/') {
                    Some((group, volume)) => {
                        Some(Self { group: Some(group.into()), volume: volume.into() })
                    }
                    // A node of the system is not a volume.
                    None => (rest == text).then(|| Self { group: None, volume: text.into() }),
                }
            }
        };
        let named = |name: &str| !name.is_empty() && !name.contains('/');
        let sound = |name: &Self| named(&name.volume) && name.group.as_deref().is_none_or(named);
        name.filter(sound).ok_or_else(|| NameError(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{group}/{}", self.volume),
            None => f.write_str(&self.volume),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_that_lvm_would_make_name_volumes() {
        let parse = |text: &str| text.parse::<Name>().map(|name| name.to_string());
        let id = "JQS3Zf-SsjM-oh5o-Z0Vb-AbwG-sv4F-Sc0sMw";
        for (text, expected) in [
            ("/dev/vg0/snap", "vg0/snap"),
            ("/dev//vg0/snap", "vg0/snap"),
            ("/dev/mapper/vg0-snap", "vg0/snap"),
            ("/dev/mapper/my--vg-a--b--c", "my-vg/a-b-c"),
            ("/dev/mapper/vg----0-snap", "vg--0/snap"),
            ("/dev/mapper/vg0-snap-cow", "vg0/snap"),
            ("/dev/mapper/vg0-root-real", "vg0/root"),
            (&format!("{id}/snap"), &format!("{id}/snap")),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(expected), "{text}");
        }
        for wrong in [
            "/dev/sda",
            "/dev/",
            "/dev/mapper/vg0",
            "/dev/mapper/",
            "/dev/mapper/-snap",
            "/dev/mapper/a-b-c",
            "/dev/vg0/",
            "/dev/a/b/c",
            "/vg/lv",
        ] {
            parse(wrong).expect_err(wrong);
        }
        let name = |text: &str| text.parse::<Name>().expect("a name");
        assert!(name("vg0/a").is_same(&name(&format!("{id}/a"))), "it may be that group's uuid");
        assert!(!name("vg0/a").is_same(&name("vg1/a")));
    }
}
