// The report as one HTML page that needs nothing but itself.
#pragma once
#include <string>

#include "host/report/report.h"

namespace elbo {

std::string report_page(const ReportData&);

// The beginning of such a page, up to and with <body>; for others than the report. `maker` stands in its second line,
// by which an OutputKind tells it from other pages.
std::string page_begin(const std::string& maker, const std::string& title);

}  // namespace elbo
