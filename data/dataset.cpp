#include "data/dataset.h"

#include <fmt/format.h>

#include <filesystem>

namespace adjoint::data {

namespace {

void require_examples(const Dataset& dataset, const std::string& path) {
  ADJOINT_CHECK(!dataset.texts.empty(), "E-DATA-001", Exit::data,
                fmt::format("{}: no examples; expected clickbait_data(.gz) and non_clickbait_data(.gz) with text, or a "
                            "CSV/TSV with --text-column and --label-column",
                            path));
}

}  // namespace

Dataset read_dataset(const std::string& path, const DatasetOptions& options) {
  Dataset dataset =
      std::filesystem::is_directory(path) ? read_headlines(path, options.read) : read_table(path, options);
  require_examples(dataset, path);
  return dataset;
}

Dataset read_headlines(const std::string& folder, const ReadOptions& options) {
  Dataset dataset{.texts = {}, .labels = {}, .classes = {"other", "clickbait"}, .sources = {}};
  for (const int32_t label : {1, 0}) {
    const std::filesystem::path base =
        std::filesystem::path(folder) / (label == 1 ? "clickbait_data" : "non_clickbait_data");
    std::string path = base.string();
    if (!std::filesystem::exists(path)) path += ".gz";
    if (!std::filesystem::exists(path)) {
      throw Error(
          "E-DATA-001", Exit::data,
          fmt::format("{}: no examples: {} is not there; expected clickbait_data(.gz) and non_clickbait_data(.gz), "
                      "or a CSV/TSV with --text-column and --label-column",
                      folder, base.filename().string()));
    }
    dataset.sources.push_back(read_lines(path, options, [&](std::string&& line, int64_t) {
      dataset.texts.push_back(std::move(line));
      dataset.labels.push_back(label);
    }));
  }
  require_examples(dataset, folder);
  return dataset;
}

}  // namespace adjoint::data
