// Downloads of answers.
import { api } from "./api";

export const FORMATS = [
  { format: "parquet", name: "Parquet" },
  { format: "csv", name: "CSV" },
  { format: "json", name: "JSON" },
  { format: "arrow", name: "Arrow" },
];

/** Fetches the whole answer of query `id` and saves it as a file. */
export async function save(id: string, format: string) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await api.whole(id, format));
  link.download = `buzz-${id.slice(-8)}.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
