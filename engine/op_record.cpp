#include "engine/op_record.h"

#include <algorithm>
#include <memory>

namespace adjoint {
namespace {

std::vector<std::unique_ptr<OpRecord>>& storage() {
  static std::vector<std::unique_ptr<OpRecord>> records;
  return records;
}

}  // namespace

OpRegistration::OpRegistration(OpRecord record) { storage().push_back(std::make_unique<OpRecord>(std::move(record))); }

std::vector<const OpRecord*> op_records() {
  std::vector<const OpRecord*> records;
  for (const auto& record : storage()) records.push_back(record.get());
  std::sort(records.begin(), records.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  return records;
}

}  // namespace adjoint
