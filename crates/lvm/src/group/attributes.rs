use super::VolumeGroup;
use super::snapshot::Snapshot;
use super::volumes::{LogicalVolume, SegmentKind, Target, has};

/// What is known about an LV besides the metadata, for the fifth letter of [`VolumeGroup::lv_attr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Activity {
    /// Nobody uses it.
    #[default]
    Inactive,
    /// In use.
    Active,
    /// A snapshot whose store is invalid.
    Invalid,
}

/// What an LV is to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Nothing.
    Plain,
    /// It has snapshots.
    Origin,
    /// It is the COW device of a snapshot, and users know the snapshot by its name.
    Snapshot,
    /// The hidden LV of a snapshot.
    SnapshotHolder,
    /// One copy or stripe of a RAID LV.
    RaidImage,
    /// What a RAID LV knows about its copies.
    RaidMetadata,
    /// Data of a pool.
    PoolData,
    /// Metadata of a pool.
    PoolMetadata,
    /// Room for the repair of a pool's metadata.
    PoolSpare,
    /// Another part of an LV.
    Part,
}

impl LogicalVolume {
    /// Its segments are zeroes, or errors, that lie nowhere.
    fn is_virtual(&self) -> bool {
        matches!(self.kinds().next(), Some("zero" | "error"))
    }
}

impl VolumeGroup {
    /// The name of the LV that this one is a snapshot of, in brackets if users do not see that.
    pub fn origin_of(&self, lv: &LogicalVolume) -> Option<String> {
        let thin = || lv.thin_origin().map(|(_, name)| name);
        let name = self.snapshot(&lv.name).map(|snapshot| &*snapshot.origin).or_else(thin)?;
        let hidden = self.lv(name).is_some_and(|origin| !self.is_visible(origin));
        Some(if hidden { format!("[{name}]") } else { name.to_owned() })
    }

    /// What an LV is to others.
    pub fn role(&self, lv: &LogicalVolume) -> Role {
        if lv.is_holder() {
            return Role::SnapshotHolder;
        }
        if self.snapshot(&lv.name).is_some() {
            return Role::Snapshot;
        }
        if self.snapshots_of(&lv.name).next().is_some() {
            return Role::Origin;
        }
        if lv.name.starts_with("lvol") && lv.name.ends_with("_pmspare") {
            return Role::PoolSpare;
        }
        match self.part_of.get(&lv.name).map(|(kind, key)| (kind.as_str(), key.as_str())) {
            None => Role::Plain,
            Some((kind, "raids" | "raid0_lvs")) if kind.starts_with("raid") => {
                if lv.name.contains("_rmeta_") { Role::RaidMetadata } else { Role::RaidImage }
            }
            Some(("thin-pool" | "cache-pool", "pool" | "data")) => Role::PoolData,
            Some(("thin-pool" | "cache-pool", "metadata")) => Role::PoolMetadata,
            // A thin LV does not hold its pool, it lives in it.
            Some(("thin", _)) => Role::Plain,
            Some(_) => Role::Part,
        }
    }

    /// The ten letters of `lvs -o lv_attr`. `partial`: a PV it needs is not there.
    ///
    /// Exact for what lies in the metadata. What other types than linear and striped ones show of
    /// their state in a running kernel is left out.
    pub fn lv_attr(&self, lv: &LogicalVolume, activity: Activity, partial: bool) -> String {
        let flagged = |word| has(&lv.status, word) || has(&lv.flags, word);
        let policy = policy_letter(lv.allocation_policy.as_deref(), 'i');
        [
            self.type_letter(lv),
            if lv.is_writable() { 'w' } else { 'r' },
            if flagged("LOCKED") { policy.to_ascii_uppercase() } else { policy },
            if flagged("FIXED_MINOR") { 'm' } else { '-' },
            match activity {
                Activity::Inactive => '-',
                Activity::Active => 'a',
                Activity::Invalid => 'I',
            },
            '-',
            self.target_letter(lv),
            if self.is_zeroed(lv) { 'z' } else { '-' },
            if partial { 'p' } else { '-' },
            if flagged("ACTIVATION_SKIP") { 'k' } else { '-' },
        ]
        .iter()
        .collect()
    }

    /// That of an origin comes before that of its type.
    fn type_letter(&self, lv: &LogicalVolume) -> char {
        let merges = |snapshot: &Snapshot| snapshot.merging;
        let external = self.thin_origins.get(&lv.name).is_some_and(|thin| thin.external > 0);
        match self.role(lv) {
            Role::Snapshot if self.snapshot(&lv.name).is_some_and(merges) => 'S',
            Role::Snapshot => 's',
            Role::Origin if self.snapshots_of(&lv.name).any(merges) => 'O',
            Role::Origin => 'o',
            _ if external => 'o',
            Role::RaidImage => 'I',
            Role::PoolData => 'T',
            Role::RaidMetadata | Role::PoolMetadata | Role::PoolSpare => 'e',
            Role::Plain | Role::Part | Role::SnapshotHolder => match lv.kinds().next() {
                Some("thin") => 'V',
                Some("thin-pool") => 't',
                Some("mirror") => 'm',
                Some("cache" | "cache-pool" | "writecache") => 'C',
                Some(kind) if kind.starts_with("raid") => 'r',
                _ if lv.is_virtual() => 'v',
                _ => '-',
            },
        }
    }

    /// That of a type that the kernel has a target of comes before that of an origin.
    fn target_letter(&self, lv: &LogicalVolume) -> char {
        match (self.role(lv), lv.kinds().next()) {
            (Role::RaidImage | Role::RaidMetadata, _) => 'r',
            (_, Some("thin" | "thin-pool")) => 't',
            (_, Some("cache" | "cache-pool" | "writecache")) => 'C',
            (_, Some(kind)) if kind.starts_with("raid") => 'r',
            (_, Some("mirror")) => 'm',
            (Role::Snapshot | Role::Origin | Role::SnapshotHolder, _) => 's',
            _ if lv.is_virtual() => 'v',
            _ => '-',
        }
    }

    /// Whether its thin pool, or the one it is, zeroes blocks before they are used.
    fn is_zeroed(&self, lv: &LogicalVolume) -> bool {
        let first = |lv: &LogicalVolume| lv.segments.first().map(|segment| segment.kind.clone());
        let Some(SegmentKind::Other { kind, uses, zeroes }) = first(lv) else { return false };
        let mut pools = uses.iter().filter(|(key, _)| key == "thin_pool");
        let pool = pools.next().and_then(|(_, name)| first(self.lv(name)?));
        match (&*kind, pool) {
            ("thin-pool", _) => zeroes,
            ("thin", Some(SegmentKind::Other { zeroes, .. })) => zeroes,
            _ => false,
        }
    }

    /// As `lvs -o lv_layout`: `linear`, `striped`, `raid,raid1`, `thin,pool`, ...
    pub fn lv_layout(&self, lv: &LogicalVolume) -> String {
        let mut kinds: Vec<_> = lv.kinds().collect();
        kinds.dedup();
        match kinds[..] {
            ["thin-pool"] => "thin,pool".to_owned(),
            ["thin"] => "thin,sparse".to_owned(),
            [kind] if kind.starts_with("raid") => format!("raid,{kind}"),
            ["zero" | "error"] => match self.role(lv) {
                Role::Origin => "virtual".to_owned(),
                _ => "unknown".to_owned(),
            },
            _ => kinds.join(","),
        }
    }

    /// As `lvs -o lv_role`: `public,origin,thickorigin`, `private,raid,image`, ...
    pub fn lv_role(&self, lv: &LogicalVolume) -> String {
        let mut words = vec![if self.is_visible(lv) { "public" } else { "private" }];
        match self.role(lv) {
            Role::Plain | Role::Part | Role::SnapshotHolder => {}
            // Also where it is hidden because it merges.
            Role::Snapshot => words = vec!["public", "snapshot", "thicksnapshot"],
            Role::Origin => {}
            Role::RaidImage => words.extend(["raid", "image"]),
            Role::RaidMetadata => words.extend(["raid", "metadata"]),
            Role::PoolData => words.extend(["thin", "pool", "data"]),
            Role::PoolMetadata => words.extend(["thin", "pool", "metadata"]),
            Role::PoolSpare => words.extend(["pool", "spare"]),
        }
        if lv.kinds().any(|kind| kind == "thin-pool") {
            words = vec!["private"];
        }
        let thin = self.thin_origins.get(&lv.name).copied().unwrap_or_default();
        let thick = self.snapshots_of(&lv.name).take(2).count();
        for (count, one, several) in [
            (thin.snapshots, "thinorigin", "multithinorigin"),
            (thin.external, "extthinorigin", "multiextthinorigin"),
            (thick, "thickorigin", "multithickorigin"),
        ] {
            if count > 0 && !words.contains(&"origin") {
                words.push("origin");
            }
            words.extend([one, several].iter().take(count));
        }
        if lv.thin_origin().is_some() {
            words.extend(["snapshot", "thinsnapshot"]);
        }
        words.join(",")
    }

    /// The six letters of `vgs -o vg_attr`. `partial`: a PV is not there.
    pub fn vg_attr(&self, partial: bool) -> String {
        [
            if has(&self.status, "WRITE") { 'w' } else { 'r' },
            if has(&self.status, "RESIZEABLE") { 'z' } else { '-' },
            if self.is_exported() { 'x' } else { '-' },
            if partial { 'p' } else { '-' },
            policy_letter(self.allocation_policy.as_deref(), 'n'),
            if self.lock_type.is_some() { 's' } else { '-' },
        ]
        .iter()
        .collect()
    }

    /// Extents of all PVs together.
    pub fn extents(&self) -> u64 {
        self.pvs.iter().fold(0, |sum, pv| sum.saturating_add(pv.pe_count))
    }

    /// Extents that no LV has.
    pub fn free_extents(&self) -> u64 {
        let segments = self.lvs.iter().flat_map(|lv| &lv.segments);
        let used = segments.fold(0_u64, |used, segment| match &segment.kind {
            SegmentKind::Striped { stripes, .. } => {
                let on_pvs = stripes.iter().filter(|stripe| matches!(stripe.on, Target::Pv(_)));
                let each = segment.extent_count / stripes.len() as u64;
                used.saturating_add(each.saturating_mul(on_pvs.count() as u64))
            }
            _ => used,
        });
        self.extents().saturating_sub(used)
    }
}

fn policy_letter(policy: Option<&str>, inherited: char) -> char {
    match policy {
        Some("contiguous") => 'c',
        Some("cling" | "cling_by_tags") => 'l',
        Some("normal") => 'n',
        Some("anywhere") => 'a',
        _ => inherited,
    }
}
