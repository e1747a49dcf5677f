# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_dmsnap_global_optspecs
    string join \n h/help V/version
end

function __fish_dmsnap_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_dmsnap_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_dmsnap_using_subcommand
    set -l cmd (__fish_dmsnap_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c dmsnap -n "__fish_dmsnap_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "create" -d 'Format a new, empty store'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "info" -d 'Show what a store holds and how full it is'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "check" -d 'Check a store without changing it'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "repair" -d 'Make a sound store of what is left of a damaged one'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "dump" -d 'List every run of exceptions'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "restore" -d 'Make a store\'s metadata again from a dump'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "pack" -d 'Pack a store\'s metadata into one small file'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "unpack" -d 'Write the metadata in a pack to a device, or to a new sparse file'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "wipe" -d 'Zero what a store has used of its device, before that is given away'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "export" -d 'Write the snapshot\'s content as a raw image'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "diff" -d 'List where two snapshots of one origin differ, or a snapshot and its origin'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "compare" -d 'Tell whether a snapshot is the same bytes as an image'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "merge" -d 'Copy the snapshot\'s chunks back to the origin'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "undo" -d 'Take a merge back'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "table" -d 'Print the device-mapper tables with which a kernel shows a snapshot'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "serve" -d 'Serve an origin and its snapshots as block devices over NBD'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "lvm" -d 'List, check, export and merge LVM snapshots in disk images'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "ctl" -d 'Look at a running `dmsnap serve`, and change it'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "completions" -d 'Print a script that lets a shell complete dmsnap\'s commands and options'
complete -c dmsnap -n "__fish_dmsnap_needs_command" -f -a "man" -d 'Write the manual pages, one per command, to a directory'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand create" -l chunk-size -d 'Unit of copying: a power of two from 512 bytes to 1 GiB' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand create" -l size -d 'Size of the file to make, rounded up to whole sectors' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand create" -l for -d 'Make the file large enough for every chunk of this origin to change, metadata included' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand create" -l percent -d 'Make it large enough for this part of the chunks of --for' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand create" -l base -d 'Remember which origin it is for' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand create" -l virtual-size -d 'Remember the size of the snapshot, where it is another than its origin\'s' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand create" -l force -d 'Format a device that holds something else'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand create" -l json -d 'The result as a JSON object'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand create" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand info" -l json -d 'A JSON object instead of lines'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand info" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand info" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand check" -l virtual-size -d 'Size of the snapshot, where it is another than its origin\'s' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand check" -l json -d 'One finding per line as a JSON object, all of them, and the report as the last line'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand check" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l output -d 'File to make, or with --force file or disk to overwrite' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l backup -d 'File to make, with the metadata as it was' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l duplicates -d 'Which one is kept of several exceptions for one chunk of the origin whose data differ' -r -f -a "first\t'The first: Linux 6.1 shows it, and every merge ends with it'
last\t'The last: Linux 6.12 shows it'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l chunk-size -d 'Unit of copying, whatever the header says' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l io -d 'Around the page cache or through it' -r -f -a "direct\t'Around the page cache, where the device can'
buffered\t'Through the page cache'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l in-place -d 'Repair the store where it is'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l drop -d 'Drop exceptions without data, and go on without those that are lost'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l revive -d 'Make a snapshot valid again that was dropped'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l force -d 'Overwrite a NEW that exists'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l progress -d 'Show progress even if stderr is not a terminal: one line per second'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -l json -d 'One finding per line as a JSON object, all of them, and the plan and the result as the last line'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand repair" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand dump" -l format -d 'How each run is written' -r -f -a "text\t'A line of text'
json\t'A JSON object on a line'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand dump" -l json -d 'The same as --format json'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand dump" -l restorable -d 'JSON that `dmsnap restore` makes the store\'s metadata from'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand dump" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand dump" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand restore" -l force -d 'Overwrite a device that holds a valid store or something else'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand restore" -l dry-run -d 'Check everything and write nothing'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand restore" -l json -d 'The result as a JSON object'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand restore" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand pack" -l chunk-size -d 'Read it as a store with this chunk size, whatever its header says' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand pack" -l raw -d 'Take a device whose header no kernel opens, too'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand pack" -l json -d 'The result as a JSON object; on stderr, if the pack goes to standard output'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand pack" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand pack" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand unpack" -l force -d 'Overwrite a device that holds a valid store or something else'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand unpack" -l json -d 'The result as a JSON object'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand unpack" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand unpack" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand wipe" -l all -d 'The whole device, not only what the store has used'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand wipe" -l discard -d 'Discard the range as well, once it is zeroed'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand wipe" -l dry-run -d 'Say what would be wiped and write nothing'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand wipe" -l progress -d 'Show progress even if stderr is not a terminal: one line per second'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand wipe" -l json -d 'The result as a JSON object'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand wipe" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand wipe" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand export" -l virtual-size -d 'Size of the snapshot, where it is another than its origin\'s' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand export" -l io -d 'Around the page cache or through it' -r -f -a "direct\t'Around the page cache, where the device can'
buffered\t'Through the page cache'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand export" -l force -d 'Overwrite an OUTPUT that exists'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand export" -l allow-invalid -d 'Export a snapshot that was dropped, too'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand export" -l no-fence -d 'Go on although the origin is not what the store remembers of it (`dmsnap create --base`)'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand export" -l progress -d 'Show progress even if stderr is not a terminal: one line per second'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand export" -l json -d 'The result as a JSON object; on stderr, if the image goes to standard output'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand export" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -l origin -d 'The origin of two stores' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -l from -d 'Begin at this byte' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -l max -d 'List at most this many ranges' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -l format -d 'How the ranges are written' -r -f -a "text\t'A line of text for each range'
json\t'A JSON object on a line for each range, after one that describes the list'
csi\t'Messages as those of CSI\'s `GetMetadataDelta`, a JSON object on a line each'
qemu\t'As `qemu-img map --output=json` lists an image that holds only what differs'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -l io -d 'Around the page cache or through it' -r -f -a "direct\t'Around the page cache, where the device can'
buffered\t'Through the page cache'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -l compare -d 'Read what both sides show, and leave out what is the same'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -l json -d 'The same as --format json'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -l no-fence -d 'Go on although the origin is not what the store remembers of it (`dmsnap create --base`)'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -l progress -d 'With --compare: show progress even if stderr is not a terminal'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand diff" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand compare" -l virtual-size -d 'Size of the snapshot, where it is another than its origin\'s' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand compare" -l io -d 'Around the page cache or through it' -r -f -a "direct\t'Around the page cache, where the device can'
buffered\t'Through the page cache'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand compare" -l no-fence -d 'Go on although the origin is not what the store remembers of it (`dmsnap create --base`)'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand compare" -l progress -d 'Show progress even if stderr is not a terminal: one line per second'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand compare" -l json -d 'The result as a JSON object'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand compare" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand compare" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l keep -d 'COW device of another snapshot of ORIGIN, which keeps what it shows; may be repeated' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l undo -d 'Keep a way back in UNDO: `dmsnap undo COW ORIGIN UNDO` then takes the merge back' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l rate -d 'Limit to this many bytes per second' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l window -d 'Most data in one window; two windows are in memory at a time' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l io -d 'Around the page cache or through it' -r -f -a "direct\t'Around the page cache, where the device can'
buffered\t'Through the page cache'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l backup -d 'File for the old metadata text, by default next to the image' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l forget-undo -d 'Merge although the way back is lost by that: where it is kept while a server merges'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l dry-run -d 'Check everything and tell what would be done, but write nothing'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l no-share -d 'Copy, even where both files could share extents instead'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l force -d 'Go on although the origin begins with a store\'s header, or exceptions were lost'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l no-fence -d 'Go on although the origin is not what the store remembers of it (`dmsnap create --base`)'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l progress -d 'Show progress even if stderr is not a terminal: one line per second'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l json -d 'The result as a JSON object'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l no-metadata -d 'Merge the data only: the snapshot stays in the volume group, empty'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -l drop-full -d 'Drop another snapshot that has no room for what it shows, instead of refusing'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand merge" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l keep -d 'COW device of another snapshot of ORIGIN, which keeps what it shows; may be repeated' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l rate -d 'Limit to this many bytes per second' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l window -d 'Most data in one window; two windows are in memory at a time' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l io -d 'Around the page cache or through it' -r -f -a "direct\t'Around the page cache, where the device can'
buffered\t'Through the page cache'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l drop-full -d 'Drop another snapshot that has no room for what it shows, instead of refusing'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l drop-snapshot -d 'Do not keep what COW shows, but drop it: only the old origin is wanted'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l dry-run -d 'Check everything and tell what would be done, but write nothing'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l no-share -d 'Copy, even where both files could share extents instead'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l force -d 'Go on although the origin begins with a store\'s header, or exceptions were lost'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l no-fence -d 'Go on although the origin is not what the store remembers of it (`dmsnap create --base`)'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l progress -d 'Show progress even if stderr is not a terminal: one line per second'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -l json -d 'The result as a JSON object'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand undo" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand table" -l virtual-size -d 'Size of the snapshot, where it is another than its origin\'s' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand table" -l name -d 'Name of the device that shows the snapshot' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand table" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand table" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l snapshot -d 'A snapshot of it, and how it behaves' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l table -d 'Serve what this table of the kernel\'s targets says' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l nbd -d 'Listen here; may be given several times' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l socket-mode -d 'Mode of the Unix sockets of --nbd, in octal' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l socket-group -d 'Group of the Unix sockets of --nbd: a name or a number' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l tls -d 'Whether connections are encrypted' -r -f -a "off\t''
on\t''
required\t''"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l tls-certificates -d 'Folder of PEM files: server-cert.pem, server-key.pem, ca-cert.pem' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l connections -d 'Most connections at a time' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l memory -d 'Most memory for the whole server, at least 128M' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l connection-memory -d 'Most memory for the requests of one connection; one request may take 32 MiB in any case' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l control -d 'Let this server be looked at and changed over a socket there, by its owner alone' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l state -d 'Keep what `dmsnap ctl` changes in this file: it is there again at the next start' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l merge -d 'Merge this snapshot into the origin while clients go on' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l undo -d 'Keep a way back of the merge in UNDO: `dmsnap ctl merge undo NAME` takes the merge back' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l max-size -d 'UNDO grows up to this; by default as far as it can ever have to' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l rate -d 'Limit the merge to this many bytes per second' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l window -d 'Most data in one window of the merge; at most 64M, and a 16th of --memory' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l default-export -d 'What clients get who ask for no export by name' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l pid-file -d 'Write the server\'s process number there once it listens' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l run -d 'Serve as long as this command runs' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l write-back -d 'Most memory for origin writes that wait to be written together, at most an eighth of --memory; 0: none waits' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l io -d 'Through the page cache or around it' -r -f -a "direct\t'Around the page cache, where the device can'
buffered\t'Through the page cache'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l tls-verify-peer -d 'Let in only clients with a certificate that ca-cert.pem vouches for'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l no-fence -d 'Go on although the origin is not what a store remembers of it (`dmsnap create --base`)'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l forget-undo -d 'Serve one store of an undoable merge without the other'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l read-only -d 'Refuse every write'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l origin-read-only -d 'Open the origin for reading alone: a golden image'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l fork -d 'Go into the background, and return 0 once it listens'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -l exit-with-last-client -d 'End when the last client has gone, as qemu-nbd does without --persistent'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand serve" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and not __fish_seen_subcommand_from list check export merge" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and not __fish_seen_subcommand_from list check export merge" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and not __fish_seen_subcommand_from list check export merge" -f -a "list" -d 'List the volumes of disks and images, as `lvs` does'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and not __fish_seen_subcommand_from list check export merge" -f -a "check" -d 'Check the metadata of volume groups, and the stores of their snapshots'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and not __fish_seen_subcommand_from list check export merge" -f -a "export" -d 'Write a snapshot\'s content as a raw image'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and not __fish_seen_subcommand_from list check export merge" -f -a "merge" -d 'Copy a snapshot\'s chunks back to its origin, and take it out of the volume group'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from list" -s a -l all -d 'Also the hidden parts of other volumes'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from list" -l json -d 'A report shaped as that of `lvs --reportformat json --units b`'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from list" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from check" -l json -d 'One finding per line as a JSON object, and each store\'s report as a line after its findings'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from check" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from export" -l virtual-size -d 'Size of the snapshot, where it is another than its origin\'s' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from export" -l io -d 'Around the page cache or through it' -r -f -a "direct\t'Around the page cache, where the device can'
buffered\t'Through the page cache'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from export" -l force -d 'Overwrite an OUTPUT that exists'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from export" -l allow-invalid -d 'Export a snapshot that was dropped, too'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from export" -l no-fence -d 'Go on although the origin is not what the store remembers of it (`dmsnap create --base`)'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from export" -l progress -d 'Show progress even if stderr is not a terminal: one line per second'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from export" -l json -d 'The result as a JSON object; on stderr, if the image goes to standard output'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from export" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l undo -d 'Keep a way back in FILE, which is made; a device is taken as well, if it is blank' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l rate -d 'Limit to this many bytes per second' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l window -d 'Most data in one window; two windows are in memory at a time' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l io -d 'Around the page cache or through it' -r -f -a "direct\t'Around the page cache, where the device can'
buffered\t'Through the page cache'"
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l backup -d 'File for the old metadata text, by default next to the image' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l dry-run -d 'Check everything and tell what would be done, but write nothing'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l no-share -d 'Copy, even where both files could share extents instead'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l force -d 'Go on although the origin begins with a store\'s header, or exceptions were lost'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l no-fence -d 'Go on although the origin is not what the store remembers of it (`dmsnap create --base`)'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l progress -d 'Show progress even if stderr is not a terminal: one line per second'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l json -d 'The result as a JSON object'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l no-metadata -d 'Merge the data only: the snapshot stays in the volume group, empty'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -l drop-full -d 'Drop another snapshot that has no room for what it shows, instead of refusing'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand lvm; and __fish_seen_subcommand_from merge" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -l control -d 'The server\'s control socket, as it was given to `dmsnap serve`' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -l json -d 'The answer as JSON, where there is one'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -f -a "status" -d 'Show origin, snapshots, merge and exports, and their state'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -f -a "snapshot" -d 'Add, remove or drop a snapshot'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -f -a "merge" -d 'Merge a snapshot into the origin'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -f -a "diff" -d 'List where two snapshots differ, or a snapshot and the origin'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -f -a "grow" -d 'Make the file of a store longer'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -f -a "flush" -d 'Make everything written to the exports durable'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and not __fish_seen_subcommand_from status snapshot merge diff grow flush shutdown" -f -a "shutdown" -d 'End the server, as SIGTERM does: everything is published and flushed'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from status" -l control -d 'The server\'s control socket, as it was given to `dmsnap serve`' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from status" -l dmsetup -d 'Lines as `dmsetup status` prints them'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from status" -l table -d 'Lines that `dmsnap serve --table` takes to serve the same'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from status" -l watch -d 'Again as soon as it changes, at most ten times a second, until the server ends'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from status" -l json -d 'The answer as JSON, where there is one'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from status" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from snapshot" -l control -d 'The server\'s control socket, as it was given to `dmsnap serve`' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from snapshot" -l json -d 'The answer as JSON, where there is one'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from snapshot" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from snapshot" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from snapshot" -f -a "create" -d 'Add a snapshot, and its export'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from snapshot" -f -a "remove" -d 'Stop serving a snapshot; its store stays'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from snapshot" -f -a "invalidate" -d 'Drop a snapshot for good, as a write to the origin does when the store is full'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from merge" -l control -d 'The server\'s control socket, as it was given to `dmsnap serve`' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from merge" -l json -d 'The answer as JSON, where there is one'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from merge" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from merge" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from merge" -f -a "start" -d 'Start to merge a snapshot: from now on it and the origin are one device'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from merge" -f -a "pause" -d 'Pause it after the window under way'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from merge" -f -a "resume" -d 'Resume it, also after a device has failed'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from merge" -f -a "cancel" -d 'Cancel the merge and keep the snapshot, with its content unchanged'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from merge" -f -a "undo" -d 'Take a merge back, finished or not: the origin becomes what it was before, and NAME a snapshot again'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from merge" -f -a "rate" -d 'Change how fast it goes'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from diff" -l start -d 'Begin at this byte' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from diff" -l max -d 'List at most this many ranges' -r
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from diff" -l control -d 'The server\'s control socket, as it was given to `dmsnap serve`' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from diff" -l json -d 'The answer as JSON, where there is one'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from diff" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from grow" -l control -d 'The server\'s control socket, as it was given to `dmsnap serve`' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from grow" -l json -d 'The answer as JSON, where there is one'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from grow" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from grow" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from flush" -l control -d 'The server\'s control socket, as it was given to `dmsnap serve`' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from flush" -l json -d 'The answer as JSON, where there is one'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from flush" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from flush" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from shutdown" -l control -d 'The server\'s control socket, as it was given to `dmsnap serve`' -r -F
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from shutdown" -l json -d 'The answer as JSON, where there is one'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from shutdown" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand ctl; and __fish_seen_subcommand_from shutdown" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand completions" -s V -l version -d 'Print version'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c dmsnap -n "__fish_dmsnap_using_subcommand man" -s V -l version -d 'Print version'
