// From drops and choosers to files with names, and from files to requests within the limits.

// More would make the first answer wait.
const FILES_PER_REQUEST = 16;
// Room for the boundaries and headers of a form.
const FORM_BYTES = 2048;

/** Files of a chooser, hidden ones left out; those of a folder keep their path as their name. */
export function chosen(list) {
  return Array.from(list, (file) => ({ file, name: file.webkitRelativePath || file.name })).filter(visible);
}

/** Files of a drop, those in dropped folders included. */
export async function dropped(transfer) {
  // The entries must be taken before anything is awaited: the list is emptied afterwards.
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return chosen(transfer.files);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found.filter(visible);
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, name: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (batch.length === 0) return;
    for (const child of batch) await walk(child, found);
  }
}

function visible({ name }) {
  return !name.split("/").some((part) => part.startsWith("."));
}

/** Group items so that each group is a request that the service takes. */
export function requests(items, limits) {
  const most = Math.min(FILES_PER_REQUEST, limits.max_files);
  const room = limits.max_request_mb * 1e6;
  const groups = [];
  let group = [];
  let bytes = 0;
  for (const item of items) {
    const size = item.file.size + FORM_BYTES;
    if (group.length === most || (group.length > 0 && bytes + size > room)) {
      groups.push(group);
      group = [];
      bytes = 0;
    }
    group.push(item);
    bytes += size;
  }
  if (group.length > 0) groups.push(group);
  return groups;
}
